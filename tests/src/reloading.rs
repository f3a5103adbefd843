//! A server whose configuration is written anew while it runs.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::client::Client;
use crate::engine::{Home, Server};

/// Of the server under test for one reload, on a machine that does much else.
const RELOAD_TIME_MAX: Duration = Duration::from_secs(60);

#[derive(Debug)]
pub struct Reloading {
    pub home: Home,
    /// What the configuration begins with.
    pub base: String,
    pub server: Server,
}

impl Reloading {
    /// With the configuration of the home, and these lines behind it.
    pub fn start(home: Home, lines: &str) -> Self {
        let base = fs::read_to_string(home.config()).expect("it was just written");
        fs::write(home.config(), format!("{base}{lines}")).expect("a file");
        let server = home.serve();
        Self { home, base, server }
    }

    /// Writes other lines, and waits until the log says what came of them.
    pub fn reload(&self, lines: &str) -> String {
        let told = |line: &String| line.contains("\"reloaded\"") || line.contains("reload refused");
        let before = self.server.log.lines().iter().filter(|line| told(line)).count();
        fs::write(self.home.config(), format!("{}{lines}", self.base)).expect("a file");
        self.server.signal(Signal::HUP);
        let until = Instant::now() + RELOAD_TIME_MAX;
        loop {
            if let Some(line) = self.server.log.lines().into_iter().filter(told).nth(before) {
                return line;
            }
            assert!(Instant::now() < until, "no reload: {:#?}", self.server.log.lines());
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

/// Sessions with a message each until told to stop; how many.
///
/// # Errors
/// When one is refused or reset.
pub fn send_all_the_time(address: SocketAddr, stop: &AtomicBool) -> io::Result<u64> {
    let mut count = 0;
    while !stop.load(Ordering::Relaxed) {
        let mut client = Client::ready(address)?;
        client.send("a@example.org", &["b@example.com"], b"Subject: x\r\n\r\nx\r\n")?;
        client.quit()?;
        count += 1;
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(count)
}

//! The real server: its binary on a free port of the loopback, in a directory of its own.
//!
//! The binaries are those of `RINGMX_BIN_DIR`, or else of the profile that the tests were built with; cargo is asked
//! first whether they are up to date.

use std::ffi::OsStr;
use std::fs::Permissions;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, kill_process, setrlimit};
use serde_json::Value;
use tempfile::TempDir;

use crate::client::http_get;
use crate::maildir::Maildir;

/// How long anything that does not depend on a load may take, on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// For a test that holds so many descriptors itself.
///
/// # Panics
/// Where the system gives fewer.
pub fn allow_descriptors(wanted: u64) {
    let limit = getrlimit(Resource::Nofile);
    if limit.current.is_none_or(|current| current >= wanted) {
        return;
    }
    let raised = Rlimit { current: Some(wanted), maximum: limit.maximum.map(|most| most.max(wanted)) };
    setrlimit(Resource::Nofile, raised).unwrap_or_else(|error| {
        panic!("this test holds {wanted} descriptors and the limit is {limit:?}: {error}; raise `ulimit -Hn`")
    });
}

/// The path of `ringmx` or `loadgen`.
pub fn binary(name: &str) -> PathBuf {
    static DIR: OnceLock<PathBuf> = OnceLock::new();
    let dir = DIR.get_or_init(|| match std::env::var_os("RINGMX_BIN_DIR") {
        // From the root of the workspace, where cargo is called.
        Some(dir) => crate::source::workspace().join(dir),
        None => build(),
    });
    let path = dir.join(name);
    assert!(path.is_file(), "{} is missing: cargo build -p ringmx -p loadgen", path.display());
    path
}

/// Brings the binaries up to date; where they are.
fn build() -> PathBuf {
    let this = std::env::current_exe().expect("the test's path");
    // target/PROFILE/deps/TEST
    let dir = this.parent().and_then(Path::parent).expect("target/PROFILE/deps").to_owned();
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(["build", "--quiet", "-p", "ringmx", "-p", "loadgen"]).current_dir(crate::source::workspace());
    if dir.ends_with("release") {
        cargo.arg("--release");
    }
    let status = cargo.status().expect("cargo runs");
    assert!(status.success(), "cargo build: {status}");
    dir
}

/// What of the configuration the tests vary.
#[derive(Clone, Debug)]
pub struct Options {
    pub max_message_size: &'static str,
    pub segment_size: &'static str,
    pub durability: &'static str,
    pub workers: usize,
    /// `deliver` and what belongs to it, instead of the Maildir `maildir`.
    pub deliver: Option<&'static str>,
    /// Lines of `[[listener]]`.
    pub listener: &'static str,
    /// Lines of `[spool]`.
    pub spool: &'static str,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            max_message_size: "1MiB",
            segment_size: "4MiB",
            durability: "sync",
            workers: 2,
            deliver: None,
            listener: "",
            spool: "",
        }
    }
}

/// A directory with a configuration, a spool and a Maildir, which outlives the servers that run in it.
#[derive(Debug)]
pub struct Home {
    path: PathBuf,
    /// Removed with this and its servers, unless it is somebody else's.
    dir: Option<Arc<TempDir>>,
}

impl Home {
    /// The listener binds port 0: the system chooses, the log tells.
    pub fn new(options: &Options) -> Self {
        let dir = tempfile::Builder::new().prefix("ringmx-test-").tempdir().expect("a temporary directory");
        let home = Self { path: dir.path().to_owned(), dir: Some(Arc::new(dir)) };
        home.configure(options, "127.0.0.1:0");
        home
    }

    /// In a directory that exists, and stays.
    pub fn within(path: PathBuf, options: &Options) -> Self {
        let home = Self { path, dir: None };
        home.configure(options, "127.0.0.1:0");
        home
    }

    pub fn configure(&self, options: &Options, bind: &str) {
        let Options { max_message_size, segment_size, durability, workers, deliver, listener, spool } =
            options;
        let deliver = deliver.unwrap_or("deliver = \"maildir\"\npath = \"maildir\"");
        let text = format!(
            "hostname = \"mx.example\"\nworkers = {workers}\n\n[[listener]]\nname = \"mx\"\nbind = [\"{bind}\"]\n\
             max_message_size = \"{max_message_size}\"\n{listener}\n\n[spool]\npath = \"spool\"\n\
             durability = \"{durability}\"\nsegment_size = \"{segment_size}\"\n{spool}\n\n[recipients]\n\
             domains = [\"example.com\"]\n\n[[route]]\ndomains = [\"*\"]\n{deliver}\nretry = [\"1s\"]\n"
        );
        std::fs::write(self.config(), text).expect("a configuration is written");
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn config(&self) -> PathBuf {
        self.path().join("ringmx.toml")
    }

    pub fn spool(&self) -> PathBuf {
        self.path().join("spool")
    }

    pub fn maildir(&self) -> Maildir {
        Maildir::new(self.path().join("maildir"))
    }

    /// Opens the directory to other users and puts the server's binary into it; where that is. The copy is made by a
    /// process of its own: one that this process had written could not run while a child, forked by another thread,
    /// still holds it open (ETXTBSY).
    pub fn open_to_all(&self) -> PathBuf {
        std::fs::set_permissions(self.path(), Permissions::from_mode(0o777)).expect("chmod");
        let copy = self.path().join("ringmx");
        let status = Command::new("cp").arg(binary("ringmx")).arg(&copy).status().expect("cp runs");
        assert!(status.success(), "cp: {status}");
        copy
    }

    /// Runs `ringmx ARGS --config ..` to its end.
    pub fn run<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Output {
        let mut command = Command::new(binary("ringmx"));
        command.args(args).arg("--config").arg(self.config()).current_dir(self.path());
        command.output().expect("ringmx runs")
    }

    /// The undelivered messages' ids, as `spool ls` gives them.
    pub fn undelivered(&self) -> Vec<String> {
        let output = self.run(["spool", "ls", "--json"]);
        assert!(output.status.success(), "spool ls: {}", text(&output.stderr));
        let id = |line: &str| {
            let listed: Value = serde_json::from_str(line).expect("a line of JSON");
            listed["id"].as_str().expect("an id").to_owned()
        };
        text(&output.stdout).lines().map(id).collect()
    }

    /// The content as the spool holds it.
    pub fn cat(&self, id: &str) -> Vec<u8> {
        let output = self.run(["spool", "cat", id]);
        assert!(output.status.success(), "spool cat {id}: {}", text(&output.stderr));
        output.stdout
    }

    /// Panics unless `spool verify` finds nothing damaged.
    pub fn verify(&self) {
        let output = self.run(["spool", "verify"]);
        assert!(output.status.success(), "spool verify: {}{}", text(&output.stdout), text(&output.stderr));
    }

    /// Starts a server here and waits until it is ready.
    pub fn serve(&self) -> Server {
        match self.try_serve() {
            Ok(server) => server,
            Err(output) => panic!("ringmx serve: {}\n{}", output.status, text(&output.stderr)),
        }
    }

    /// The same where the server may refuse to start: then its exit status and its log.
    pub fn try_serve(&self) -> Result<Server, Output> {
        self.try_serve_with(&binary("ringmx"))
    }

    /// With another build of the server.
    pub fn try_serve_with(&self, ringmx: &Path) -> Result<Server, Output> {
        let mut command = Command::new(ringmx);
        command.args(["serve", "--log-format", "json", "--config"]).arg(self.config());
        self.spawn(command)
    }

    /// Starts a server by a command of the caller's, which ends in `ringmx serve --log-format json`.
    pub fn spawn(&self, mut command: Command) -> Result<Server, Output> {
        command.current_dir(self.path()).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("ringmx starts");
        let log = Log::follow(&mut child);
        let began = Instant::now();
        loop {
            let ended = child.try_wait().expect("a child of ours");
            if let Some(status) = ended {
                let stderr = log.join().join("\n").into_bytes();
                return Err(Output { status, stdout: Vec::new(), stderr });
            }
            if let (Some(listening), Some(_)) = (log.find("listening"), log.find("ready")) {
                let address = listening["address"].as_str().expect("an address").parse().expect("an address");
                return Ok(Server { child, log, address, _home: self.dir.clone() });
            }
            assert!(began.elapsed() < PATIENCE, "not ready:\n{}", log.lines().join("\n"));
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// A running server. Dropped, it is killed.
#[derive(Debug)]
pub struct Server {
    child: Child,
    pub log: Log,
    pub address: SocketAddr,
    /// The server needs its directory, also when nobody holds the `Home` any more.
    _home: Option<Arc<TempDir>>,
}

impl Server {
    /// The sum of a metric over all that its labels tell apart, by its admin HTTP.
    pub fn metric(&self, name: &str) -> u64 {
        let line = self.log.find("admin HTTP").expect("the configuration has [admin]");
        let address = line["address"].as_str().and_then(|text| text.parse().ok()).expect("an address");
        let (_, text) = http_get(address, "/metrics").expect("metrics");
        let samples = text.lines().filter_map(|line| line.strip_prefix(name)?.rsplit_once(' '));
        let is_whole = |labels: &str| labels.is_empty() || labels.starts_with('{');
        let values = samples.filter(|(labels, _)| is_whole(labels)).map(|(_, value)| value.parse::<f64>());
        values.map(|value| value.expect("a number") as u64).sum()
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("a child of ours").is_none()
    }

    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, signal).expect("the server is ours");
    }

    /// SIGTERM; the server must end by itself, with status 0. Gives its log.
    pub fn stop(mut self) -> Vec<String> {
        self.signal(Signal::TERM);
        let status = self.wait();
        let log = self.log.join();
        assert!(status.success(), "{status} behind SIGTERM:\n{}", log.join("\n"));
        log
    }

    /// kill -9.
    pub fn kill(mut self) {
        self.signal(Signal::KILL);
        self.wait();
    }

    fn wait(&mut self) -> ExitStatus {
        let began = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().expect("a child of ours") {
                return status;
            }
            assert!(began.elapsed() < PATIENCE, "does not end:\n{}", self.log.lines().join("\n"));
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if self.child.try_wait().is_ok_and(|status| status.is_none()) {
            drop(self.child.kill());
            drop(self.child.wait());
        }
        if std::thread::panicking() {
            eprintln!("the server's log:\n{}", self.log.lines().join("\n"));
        }
    }
}

/// A server's log lines, collected while it runs.
#[derive(Debug)]
pub struct Log {
    lines: Arc<Mutex<Vec<String>>>,
    thread: Mutex<Option<std::thread::JoinHandle<()>>>,
}

impl Log {
    fn follow(child: &mut Child) -> Self {
        let stderr = child.stderr.take().expect("piped");
        let lines = Arc::new(Mutex::new(Vec::new()));
        let collected = Arc::clone(&lines);
        let thread = std::thread::spawn(move || {
            for line in BufReader::new(stderr).split(b'\n') {
                let Ok(line) = line else { break };
                collected.lock().expect("nobody panics with it").push(text(&line));
            }
        });
        Self { lines, thread: Mutex::new(Some(thread)) }
    }

    pub fn lines(&self) -> Vec<String> {
        self.lines.lock().expect("nobody panics with it").clone()
    }

    /// All of it, once the server has ended.
    fn join(&self) -> Vec<String> {
        if let Some(thread) = self.thread.lock().expect("nobody panics with it").take() {
            thread.join().expect("the reader does not panic");
        }
        self.lines()
    }

    /// The first line with this message.
    pub fn find(&self, message: &str) -> Option<Value> {
        let lines = self.lines.lock().expect("nobody panics with it");
        let parsed = lines.iter().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        parsed.into_iter().find(|line| line["message"] == message)
    }
}

pub fn text(octets: &[u8]) -> String {
    String::from_utf8_lossy(octets).into_owned()
}

/// Waits until `done` gives something; panics with `what` after [`PATIENCE`].
pub fn eventually<T>(what: &str, mut done: impl FnMut() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(value) = done() {
            return value;
        }
        assert!(began.elapsed() < PATIENCE, "{what}: not within {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

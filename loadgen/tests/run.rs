//! The binary against its own sink, and against servers that misbehave; all on loopback, all bounded.

use std::collections::HashSet;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

const LOADGEN: &str = env!("CARGO_BIN_EXE_loadgen");

/// A running `loadgen sink`; ended when dropped.
struct Sink {
    process: Child,
    address: SocketAddr,
}

impl Sink {
    fn start(args: &[&str]) -> Self {
        let mut process = Command::new(LOADGEN)
            .args(["sink", "--bind", "127.0.0.1:0"])
            .args(args)
            .stdout(Stdio::piped())
            .spawn()
            .expect("the sink starts");
        let mut line = String::new();
        let stdout = process.stdout.as_mut().expect("piped");
        BufReader::new(stdout).read_line(&mut line).expect("a line");
        let address =
            line.trim().strip_prefix("listening on ").expect("the address").parse().expect("parsed");
        Self { process, address }
    }

    /// SIGINT, and what it prints then.
    fn stop(mut self) -> String {
        interrupt(&self.process);
        let mut rest = String::new();
        self.process.stdout.take().expect("piped").read_to_string(&mut rest).expect("text");
        assert!(self.process.wait().expect("waited").success());
        rest
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn interrupt(process: &Child) {
    let pid = rustix::process::Pid::from_child(process);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).expect("signalled");
}

fn run(address: SocketAddr, args: &[&str]) -> Output {
    let child = Command::new(LOADGEN)
        .args(["run", &address.to_string()])
        .args(args)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    child.and_then(Child::wait_with_output).expect("loadgen runs")
}

/// The report of a run, and its exit status.
fn report(address: SocketAddr, args: &[&str]) -> (Value, i32) {
    let output = run(address, &[args, &["--json", "-"]].concat());
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    let report = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}{errors}"));
    (report, output.status.code().expect("an exit status"))
}

/// How often an interval was measured.
fn count(report: &Value, interval: &str) -> u64 {
    let latencies = report["latencies"].as_array().expect("a list");
    let of = latencies.iter().find(|latency| latency["interval"] == interval).expect("the interval");
    of["count"].as_u64().expect("a number")
}

/// Serves each connection in its own thread until the test's end.
fn serve(serve_one: impl Fn(TcpStream) -> std::io::Result<()> + Clone + Send + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bound");
    let address = listener.local_addr().expect("an address");
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let serve_one = serve_one.clone();
            std::thread::spawn(move || serve_one(stream));
        }
    });
    address
}

/// A server that answers each line by a table, and content by `queued`; a reply of `None` closes the connection.
fn scripted(answer: impl Fn(&str) -> Option<&'static str> + Clone + Send + 'static) -> SocketAddr {
    serve(move |mut stream| {
        stream.write_all(b"220 mx\r\n")?;
        let mut lines = BufReader::new(stream.try_clone()?).lines();
        let mut in_content = false;
        while let Some(Ok(line)) = lines.next() {
            if in_content && line != "." {
                continue;
            }
            let Some(reply) = answer(if in_content { "." } else { &line }) else { break };
            in_content = reply.starts_with("354");
            stream.write_all(reply.as_bytes())?;
        }
        Ok(())
    })
}

fn kind(line: &str) -> Option<&'static str> {
    Some(match line.get(..4).unwrap_or(line) {
        "EHLO" => "250-mx\r\n250 PIPELINING\r\n",
        "DATA" => "354 go\r\n",
        "." => "250 2.0.0 queued as 5\r\n",
        "QUIT" => "221 bye\r\n",
        _ => "250 ok\r\n",
    })
}

#[test]
fn the_sink_gets_what_the_run_counts() {
    for (args, opened) in [
        (&["--pipelined"][..], 7),
        (&["--no-pipelining", "--threads", "2"], 7),
        (&["--messages-per-connection", "1"], 500),
        (&["--size", "600KiB", "--to", "a@example.com", "--to", "b@example.com"], 7),
        (&["--rate", "2000", "--threads", "3"], 7),
        (&["--bdat", "--pipelined", "--size", "lognormal:20KiB,1"], 7),
        (&["--bdat", "--no-pipelining", "--chunk", "1000"], 7),
        (&["--body", "8bitmime", "--smtputf8", "--bdat", "--size", "600KiB", "--chunk", "90KiB"], 7),
    ] {
        let sink = Sink::start(&["--threads", "2"]);
        let common = ["--connections", "7", "--messages", "500", "--fail-on", "errors"];
        let (report, status) = report(sink.address, &[&common, args].concat());
        assert_eq!(status, 0, "{args:?}: {report}");
        assert_eq!(report["accepted"], 500, "{args:?}: {report}");
        assert_eq!(report["connections_opened"], opened, "{args:?}: {report}");
        assert_eq!(count(&report, "final"), 500);
        let pipelined = !args.contains(&"--no-pipelining");
        assert_eq!(count(&report, "envelope"), if args.contains(&"--bdat") { 0 } else { 500 });
        // What leaves in one group cannot be told apart.
        assert_eq!(count(&report, "recipients"), if pipelined { 0 } else { 500 });
        assert!(report["cpu_us_per_message"].as_f64().expect("a number") > 0.0);
        let printed = sink.stop();
        assert!(printed.starts_with(&format!("500 messages on {opened} connections")), "{printed}");
    }
}

#[test]
fn a_run_ends_with_its_duration_and_prints_one_last_line() {
    let sink = Sink::start(&[]);
    let began = Instant::now();
    let output = run(sink.address, &["--duration", "500ms", "--connections", "4"]);
    assert!(began.elapsed() < Duration::from_secs(5));
    let text = String::from_utf8(output.stdout).expect("text");
    let last = text.lines().last().expect("a line");
    assert!(last.contains(" messages/s, latency p50 ") && last.ends_with(" 0 errors"), "{text}");
    assert!(output.stderr.is_empty(), "no progress bar without a terminal");
}

#[test]
fn an_interrupt_prints_what_there_is() {
    let sink = Sink::start(&[]);
    let child = Command::new(LOADGEN)
        .args(["run", &sink.address.to_string(), "--duration", "60", "--json", "-"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("loadgen runs");
    std::thread::sleep(Duration::from_millis(500));
    interrupt(&child);
    let output = child.wait_with_output().expect("waited");
    let report: Value = serde_json::from_slice(&output.stdout).expect("a report");
    assert_eq!(report["interrupted"], true);
    assert!(report["accepted"].as_u64().expect("a number") > 0);
    assert_eq!(report["started"], report["accepted"]);
}

#[test]
fn the_ledger_holds_exactly_what_was_acknowledged() {
    let directory = tempfile::tempdir().expect("made");
    let path = directory.path().join("ledger");
    let ledger = path.to_str().expect("text");
    // Every seventh message gets no reply.
    let count = std::sync::Arc::new(std::sync::atomic::AtomicU64::new(0));
    let address = scripted(move |line| {
        let drop_it = line == "." && count.fetch_add(1, std::sync::atomic::Ordering::Relaxed) % 7 == 6;
        if drop_it { None } else { kind(line) }
    });
    let (report, status) = report(
        address,
        &[
            "--connections",
            "4",
            "--threads",
            "2",
            "--messages",
            "140",
            "--ledger",
            ledger,
            "--fail-on",
            "errors",
        ],
    );
    let text = std::fs::read_to_string(&path).expect("the ledger");
    assert_eq!((&report["accepted"], &report["in_doubt"], status), (&120.into(), &20.into(), 1), "{report}");
    let lines: HashSet<&str> = text.lines().collect();
    assert_eq!((lines.len(), text.lines().count()), (120, 120));
    let run = report["setup"]["run"].as_str().expect("text");
    assert!(
        lines.iter().all(|line| line.starts_with(run) && line.ends_with("\t2.0.0 queued as 5")),
        "{text}"
    );
}

#[test]
fn misbehaving_servers_are_named_and_never_hang_the_run() {
    let cases: [(&str, SocketAddr); 8] = [
        (
            "content_refused",
            scripted(|line| if line == "." { Some("452 4.3.1 full\r\n") } else { kind(line) }),
        ),
        (
            "mail_refused",
            scripted(|line| if line.starts_with("MAIL") { Some("451 no\r\n") } else { kind(line) }),
        ),
        ("service_closing", scripted(|line| if line == "." { Some("421 bye\r\n") } else { kind(line) })),
        (
            "reply_malformed",
            scripted(|line| if line == "." { Some("250-a\r\n550 b\r\n") } else { kind(line) }),
        ),
        ("reply_unexpected", scripted(|line| if line == "." { Some("354 more\r\n") } else { kind(line) })),
        ("reply_timed_out", scripted(|line| if line == "." { Some("") } else { kind(line) })),
        ("greeting_refused", serve(|mut stream| stream.write_all(b"554 no\r\n"))),
        ("reply_malformed", serve(|mut stream| stream.write_all(&[0xff; 100_000]))),
    ];
    for (kind, address) in cases {
        let args = [
            "--connections",
            "3",
            "--messages",
            "6",
            "--duration",
            "2s",
            "--timeout",
            "300ms",
            "--fail-on",
            "errors",
        ];
        let (report, status) = report(address, &args);
        assert_eq!((&report["accepted"], status), (&0.into(), 1), "{kind}: {report}");
        let errors = report["errors"].as_array().expect("a list");
        assert!(errors.iter().any(|error| error["kind"] == kind), "{kind}: {report}");
        assert_eq!(count(&report, "final"), 0);
    }
}

#[test]
fn nobody_there_is_an_error_and_the_end_of_a_fast_failing_run() {
    let nobody =
        TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("an address");
    let began = Instant::now();
    let (report, status) = report(nobody, &["--fail-fast", "--fail-on", "errors", "--messages", "100"]);
    assert_eq!(status, 1);
    assert_eq!(report["errors"][0]["kind"], "connect_refused", "{report}");
    assert!(began.elapsed() < Duration::from_secs(5));
}

#[test]
fn a_server_that_comes_back_is_used_again() {
    let sink = Sink::start(&[]);
    let address = sink.address;
    let child = Command::new(LOADGEN)
        .args(["run", &address.to_string(), "--duration", "3s", "--connections", "5", "--json", "-"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("loadgen runs");
    std::thread::sleep(Duration::from_millis(500));
    drop(sink);
    std::thread::sleep(Duration::from_millis(200));
    let again = Command::new(LOADGEN)
        .args(["sink", "--bind", &address.to_string()])
        .stdout(Stdio::piped())
        .spawn()
        .expect("the sink starts");
    let again = Sink { process: again, address };
    let output = child.wait_with_output().expect("waited");
    let report: Value = serde_json::from_slice(&output.stdout).expect("a report");
    assert!(report["connections_opened"].as_u64().expect("a number") >= 10, "{report}");
    assert!(report["errors_count"].as_u64().expect("a number") >= 5, "{report}");
    assert!(report["in_doubt"].as_u64().expect("a number") <= 5, "{report}");
    drop(again);
}

#[test]
fn usage_errors_exit_with_2() {
    let address = "127.0.0.1:1".parse().expect("an address");
    for args in [&["--size", "10"][..], &["--rate", "x"], &["--closed", "--rate", "5"], &["--unknown"]] {
        let output = run(address, args);
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        assert!(!output.stderr.is_empty());
    }
    let output = Command::new(LOADGEN).args(["run", "no-port"]).output().expect("loadgen runs");
    assert_eq!(output.status.code(), Some(2));
}

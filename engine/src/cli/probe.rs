//! `ringmx probe`: what people did with telnet.

mod tls;

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream, ToSocketAddrs, UdpSocket};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::Args;
use serde::Serialize;
use socket2::{Domain, Socket, Type};

use self::tls::{When, Wire};
use super::Failure;
use super::admin::{AdminArgs, Client};
use crate::config::parse_port;
use crate::limits::PROBE_REPLY_LEN_MAX;

const SMTP_PORT: u16 = 25;

/// Connect as a person with telnet would, and tell who answers
#[derive(Debug, Args)]
#[command(after_help = "\
With --config or --admin it also says whether it is this server that answers: the workers are
told, by the admin HTTP, from which port the connection comes.

Examples:
  ringmx probe mx1.example.com
  ringmx probe 192.0.2.1:smtp --json
  ringmx probe mx1.example.com --tls
  ringmx probe mx1.example.com:465 --tls=implicit
  ringmx probe '[2001:db8::1]:25' --config /etc/ringmx.toml

Exit status: 0 a mail server answers (this one, if that was asked), 1 nobody or somebody else
does, 2 wrong usage.")]
pub(super) struct ProbeArgs {
    /// A name or an address, and a port or the name of a service; without it 25
    #[arg(value_name = "HOST[:PORT]")]
    target: String,
    /// How long each step may take, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    timeout: u64,
    /// The name that is given with EHLO
    #[arg(long, value_name = "NAME", default_value = "probe.invalid")]
    helo: String,
    /// Shake hands, and tell of protocol, cipher suite and certificates; by STARTTLS, or with --tls=implicit at once
    #[arg(long, value_name = "WHEN", value_enum, num_args = 0..=1, require_equals = true)]
    #[arg(default_missing_value = "starttls")]
    tls: Option<When>,
    /// Whom to trust as an authority: a PEM file
    #[arg(long, value_name = "FILE", default_value = "/etc/ssl/certs/ca-certificates.crt", requires = "tls")]
    authorities: PathBuf,
    /// One JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    admin: AdminArgs,
}

/// What there is to say about a server.
#[derive(Debug, Default, Serialize)]
struct Report {
    target: String,
    /// The address that was reached, or tried last.
    address: Option<SocketAddr>,
    /// None where nobody can be asked.
    this_server: Option<bool>,
    connect_ms: Option<f64>,
    greeting_ms: Option<f64>,
    ehlo_ms: Option<f64>,
    greeting: Option<String>,
    /// As the server calls itself.
    hostname: Option<String>,
    extensions: Vec<String>,
    tls: Option<tls::Secured>,
    error: Option<String>,
}

/// Probes, writes what it found; the exit status is 0 or 1.
pub(super) fn run(args: &ProbeArgs, output: &mut impl Write) -> Result<u8, Failure> {
    let (host, port) = split_target(&args.target).map_err(Failure::Usage)?;
    let helo_is_one_word = args.helo.bytes().all(|octet| octet.is_ascii_graphic()) && !args.helo.is_empty();
    if !helo_is_one_word {
        return Err(Failure::Usage(format!("--helo `{}` is no host name", args.helo.escape_debug())));
    }
    let admin = args.admin.client()?;
    let mut report = Report { target: args.target.clone(), ..Report::default() };
    let timeout = Duration::from_secs(args.timeout.max(1));
    if let Err(why) = probe(&host, port, args, admin.as_ref(), timeout, &mut report) {
        report.error = Some(why);
    }
    if args.json {
        writeln!(output, "{:#}", serde_json::json!(report))?;
    } else {
        write_report(&report, output)?;
    }
    output.flush()?;
    let is_well = report.error.is_none() && report.this_server != Some(false);
    Ok(u8::from(!is_well))
}

fn probe(
    host: &str,
    port: u16,
    args: &ProbeArgs,
    admin: Option<&Client>,
    timeout: Duration,
    report: &mut Report,
) -> Result<(), String> {
    let addresses: Vec<SocketAddr> = (host, port)
        .to_socket_addrs()
        .map_err(|error| format!("the name `{host}` has no address: {error}"))?
        .collect();
    let (stream, expected) = connect(&addresses, admin, timeout, report)?;
    let told = |error: io::Error| told(&error, timeout);
    let began = Instant::now();
    stream
        .set_read_timeout(Some(timeout))
        .and_then(|()| stream.set_write_timeout(Some(timeout)))
        .map_err(told)?;
    let mut wire = Wire::Clear(stream);
    if args.tls == Some(When::Implicit) {
        wire = secure(wire, host, args, report)?;
    }
    let mut reader = BufReader::new(wire);
    let greeting = read_reply(&mut reader).map_err(|error| format!("no greeting: {}", told(error)))?;
    report.greeting_ms = Some(millis(began));
    report.greeting = Some(greeting.lines.join(" / "));
    if greeting.code != 220 {
        return Err(format!("the greeting is no 220: {}", greeting.code));
    }
    report.hostname = greeting.lines[0].split_whitespace().next().map(str::to_owned);
    let mut ehlo = say_ehlo(&mut reader, args, timeout, report)?;
    if args.tls == Some(When::Starttls) {
        reader = start_tls(reader, host, args, &ehlo, report)?;
        ehlo = say_ehlo(&mut reader, args, timeout, report)?;
    }
    if let (Some(admin), Some(ticket)) = (admin, expected) {
        report.this_server = Some(admin.was_seen(&ticket)?);
    }
    // The server may be gone without a word; it has answered what there was to ask.
    drop(say(&mut reader, "QUIT"));
    if ehlo.code != 250 {
        return Err(format!("EHLO is answered {} {}", ehlo.code, ehlo.lines.join(" / ")));
    }
    report.extensions = ehlo.lines.into_iter().skip(1).collect();
    Ok(())
}

fn told(error: &io::Error, timeout: Duration) -> String {
    match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => format!("no answer within {timeout:?}"),
        _ => error.to_string(),
    }
}

fn say(reader: &mut BufReader<Wire>, line: &str) -> io::Result<Reply> {
    reader.get_mut().write_all(format!("{line}\r\n").as_bytes())?;
    reader.get_mut().flush()?;
    read_reply(reader)
}

fn say_ehlo(
    reader: &mut BufReader<Wire>,
    args: &ProbeArgs,
    timeout: Duration,
    report: &mut Report,
) -> Result<Reply, String> {
    let began = Instant::now();
    let ehlo = say(reader, &format!("EHLO {}", args.helo))
        .map_err(|error| format!("no reply to EHLO: {}", told(&error, timeout)))?;
    report.ehlo_ms = Some(millis(began));
    Ok(ehlo)
}

/// RFC 3207.
fn start_tls(
    mut reader: BufReader<Wire>,
    host: &str,
    args: &ProbeArgs,
    ehlo: &Reply,
    report: &mut Report,
) -> Result<BufReader<Wire>, String> {
    if !ehlo.lines.iter().skip(1).any(|line| line.eq_ignore_ascii_case("STARTTLS")) {
        return Err("STARTTLS is not offered".to_owned());
    }
    let reply = say(&mut reader, "STARTTLS").map_err(|error| format!("no reply to STARTTLS: {error}"))?;
    if reply.code != 220 {
        return Err(format!("STARTTLS is answered {} {}", reply.code, reply.lines.join(" / ")));
    }
    if !reader.buffer().is_empty() {
        return Err("something came in clear behind the reply to STARTTLS".to_owned());
    }
    Ok(BufReader::new(secure(reader.into_inner(), host, args, report)?))
}

fn secure(wire: Wire, host: &str, args: &ProbeArgs, report: &mut Report) -> Result<Wire, String> {
    let (wire, secured) = tls::secure(wire, host, &args.authorities)?;
    report.tls = Some(secured);
    Ok(wire)
}

/// The first address that can be reached; and what the admin HTTP calls the connection.
fn connect(
    addresses: &[SocketAddr],
    admin: Option<&Client>,
    timeout: Duration,
    report: &mut Report,
) -> Result<(TcpStream, Option<String>), String> {
    let mut failures = Vec::new();
    for &address in addresses {
        report.address = Some(address);
        let attempt = || -> io::Result<(Socket, SocketAddr)> {
            let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
            // Bound before it connects, so that the server can be told of it.
            socket.bind(&SocketAddr::new(source_for(address)?, 0).into())?;
            let source = socket.local_addr()?.as_socket().ok_or(io::ErrorKind::InvalidData)?;
            Ok((socket, source))
        };
        let connected = attempt().map_err(|error| error.to_string()).and_then(|(socket, source)| {
            let ticket = admin.map(|admin| admin.expect_visitor(source)).transpose()?;
            let began = Instant::now();
            socket.connect_timeout(&address.into(), timeout).map_err(|error| error.to_string())?;
            report.connect_ms = Some(millis(began));
            Ok((TcpStream::from(socket), ticket))
        });
        match connected {
            Ok(connected) => return Ok(connected),
            Err(why) => failures.push(format!("{address}: {why}")),
        }
    }
    Err(format!("no connection to {}", failures.join("; ")))
}

/// The address of this host from which the other is reached. Nothing is sent.
fn source_for(address: SocketAddr) -> io::Result<IpAddr> {
    let any: SocketAddr = if address.is_ipv4() { ([0; 4], 0).into() } else { ([0u16; 8], 0).into() };
    let socket = UdpSocket::bind(any)?;
    socket.connect(address)?;
    Ok(socket.local_addr()?.ip())
}

/// `host`, `host:port`, `host:service`, `[v6]`, `[v6]:port`, or an address alone.
fn split_target(target: &str) -> Result<(String, u16), String> {
    if let Ok(ip) = target.parse::<IpAddr>() {
        return Ok((ip.to_string(), SMTP_PORT));
    }
    let (host, port) = match target.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, "")) => (host, None),
        Some((host, rest)) => (host, Some(rest.strip_prefix(':').unwrap_or(rest))),
        None => target.split_once(':').map_or((target, None), |(host, port)| (host, Some(port))),
    };
    if host.is_empty() {
        return Err(format!("`{target}` names no host"));
    }
    let port = port.map_or(Ok(SMTP_PORT), parse_port)?;
    if port == 0 {
        return Err("port 0 is nobody's".to_owned());
    }
    Ok((host.to_owned(), port))
}

struct Reply {
    code: u16,
    lines: Vec<String>,
}

/// RFC 5321 §4.2: all lines of a reply; control characters are shown escaped.
fn read_reply(reader: &mut impl BufRead) -> io::Result<Reply> {
    let mut reader = reader.take(PROBE_REPLY_LEN_MAX);
    let mut lines = Vec::new();
    loop {
        let mut octets = Vec::new();
        reader.read_until(b'\n', &mut octets)?;
        if !octets.ends_with(b"\n") {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the connection was closed"));
        }
        let text = String::from_utf8_lossy(&octets).trim_end().to_owned();
        let no_reply = || io::Error::other(format!("no SMTP: `{}`", text.escape_debug()));
        let code: u16 = text.get(..3).and_then(|code| code.parse().ok()).ok_or_else(no_reply)?;
        lines.push(text.get(4..).unwrap_or_default().escape_debug().to_string());
        match text.as_bytes().get(3) {
            Some(b'-') => {}
            Some(b' ') | None => return Ok(Reply { code, lines }),
            Some(_) => return Err(no_reply()),
        }
    }
}

fn write_report(report: &Report, output: &mut impl Write) -> io::Result<()> {
    let millis = |ms: Option<f64>| ms.map_or_else(String::new, |ms| format!("  ({ms:.1} ms)"));
    match report.address {
        Some(address) => writeln!(output, "{} at {address}{}", report.target, millis(report.connect_ms))?,
        None => writeln!(output, "{}", report.target)?,
    }
    if let Some(greeting) = &report.greeting {
        writeln!(output, "  greeting    {greeting}{}", millis(report.greeting_ms))?;
    }
    if report.ehlo_ms.is_some() {
        writeln!(output, "  extensions  {}{}", report.extensions.join(", "), millis(report.ehlo_ms))?;
    }
    report.tls.iter().try_for_each(|secured| tls::write_secured(secured, output))?;
    match report.this_server {
        Some(true) => writeln!(output, "  it is this server")?,
        Some(false) => writeln!(output, "  it is NOT this server, or something stands in between")?,
        None => {}
    }
    match &report.error {
        Some(why) => writeln!(output, "  {why}"),
        None => Ok(()),
    }
}

fn millis(began: Instant) -> f64 {
    (began.elapsed().as_secs_f64() * 1e5).round() / 100.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets() {
        for (target, host, port) in [
            ("mx.example", "mx.example", 25),
            ("mx.example:submission", "mx.example", 587),
            ("192.0.2.1:2525", "192.0.2.1", 2525),
            ("2001:db8::1", "2001:db8::1", 25),
            ("[2001:db8::1]", "2001:db8::1", 25),
            ("[2001:db8::1]:26", "2001:db8::1", 26),
        ] {
            assert_eq!(split_target(target), Ok((host.to_owned(), port)), "{target}");
        }
        for target in ["", ":25", "mx:", "mx:0", "mx:65536", "mx:no-such-service", "[]:25"] {
            assert!(split_target(target).is_err(), "{target}");
        }
    }

    #[test]
    fn replies() {
        let read = |text: &str| read_reply(&mut text.as_bytes());
        let reply = read("250-mx greets\r\n250-SIZE 5\r\n250 HELP\r\nrest").unwrap();
        assert_eq!(
            (reply.code, reply.lines),
            (250, ["mx greets", "SIZE 5", "HELP"].map(String::from).to_vec())
        );
        assert_eq!(read("220 \u{1b}[2J\n").unwrap().lines, ["\\u{1b}[2J"]);
        for text in ["", "220 no end", "SSH-2.0-x\r\n", "22é hello\r\n", "220_x\r\n"] {
            assert!(read(text).is_err(), "{text}");
        }
        let endless = "250-x\r\n".repeat(PROBE_REPLY_LEN_MAX as usize / 7 + 1);
        assert!(read(&(endless + "250 x\r\n")).is_err());
    }
}

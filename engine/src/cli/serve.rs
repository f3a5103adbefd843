//! `ringmx serve`

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::process::ExitCode;

use super::{ServeArgs, check};
use crate::config::{Config, Deliver, Log, LogFormat, check_file, format_size};
use crate::logging;
use crate::supervisor;

/// Serves until a signal ends it; the exit status is 0, 1 or 2.
pub(super) fn run(args: &ServeArgs) -> ExitCode {
    let config = match &args.config {
        None => Config::quick_start(),
        Some(path) => {
            let checked = check_file(path);
            let _ = check::write_findings(&checked, &mut io::stderr().lock());
            match checked.config {
                Some(config) => config,
                None => return ExitCode::from(2),
            }
        }
    };
    // Not put into the configuration: a reload compares what files say.
    let log = Log { format: args.log_format.map_or(config.log.format, Into::into), ..config.log };
    logging::install(log);
    if args.config.is_none() && log.format == LogFormat::Human {
        eprintln!("{}", QuickStart(&config));
    } else {
        log_start(&config);
    }
    match supervisor::run(config, args.config.as_deref()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn log_start(config: &Config) {
    for listener in &config.listeners {
        let bind: Vec<_> = listener.bind.iter().map(SocketAddr::to_string).collect();
        let max_message_size = format_size(listener.max_message_size);
        tracing::info!(listener = listener.name, bind = bind.join(" "), max_message_size, "configured");
    }
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        hostname = config.hostname,
        workers = config.workers,
        spool = %config.spool.path.display(),
        durability = %config.spool.durability,
        domains = config.recipients.domains.len(),
        admin = config.admin.map(tracing::field::display),
        "starting"
    );
}

/// What a newcomer needs to know, and a command to try.
struct QuickStart<'a>(&'a Config);

impl fmt::Display for QuickStart<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let config = self.0;
        writeln!(f, "ringmx {}: quick start, as there is no --config\n", env!("CARGO_PKG_VERSION"))?;
        let binds: Vec<SocketAddr> = config.listeners.iter().flat_map(|l| l.bind.iter().copied()).collect();
        let shown: Vec<_> = binds.iter().map(SocketAddr::to_string).collect();
        writeln!(f, "  SMTP     {}", shown.join(", "))?;
        let domains: Vec<_> = config.recipients.domains.iter().map(String::as_str).collect();
        writeln!(f, "  domains  {}", domains.join(", "))?;
        writeln!(f, "  spool    {}", config.spool.path.display())?;
        for route in &config.routes {
            if let Deliver::Maildir { path } = &route.deliver {
                writeln!(f, "  Maildir  {path}")?;
            }
        }
        for certificate in &config.certificates {
            writeln!(f, "  STARTTLS with a certificate made for it, {}", certificate.chain.display())?;
        }
        if let Some(admin) = config.admin {
            writeln!(f, "  admin    http://{admin}/readyz, /healthz, /metrics")?;
        }
        if let (Some(bind), Some(domain)) = (binds.first(), domains.first()) {
            let (to, from) = (reachable(*bind), format!("you@{domain}"));
            writeln!(f, "\n  Try it from another terminal:")?;
            writeln!(f, "    printf 'Subject: hello\\r\\n\\r\\nIt works.\\r\\n' | \\")?;
            writeln!(
                f,
                "      curl -sS smtp://{to} --mail-from {from} --mail-rcpt me@{domain} --upload-file -"
            )?;
        }
        writeln!(f, "\n  Ctrl-C stops it. With a configuration of your own: ringmx serve --config FILE")
    }
}

/// An address that a client on this machine connects to in order to reach `bind`.
fn reachable(mut bind: SocketAddr) -> SocketAddr {
    if bind.ip().is_unspecified() {
        bind.set_ip(match bind.ip() {
            IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        });
    }
    bind
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_quick_start_says_where_everything_is() {
        let text = QuickStart(&Config::quick_start()).to_string();
        for part in [
            "  SMTP     127.0.0.1:2525\n",
            "  domains  example.com, localhost\n",
            "  spool    ./ringmx-data\n",
            "  Maildir  ./ringmx-data/maildir\n",
            "  STARTTLS with a certificate made for it, ./ringmx-data/tls/quick-start.pem\n",
            "  admin    http://127.0.0.1:8025/readyz, /healthz, /metrics\n",
            "curl -sS smtp://127.0.0.1:2525 --mail-from you@example.com --mail-rcpt me@example.com --upload-file -",
        ] {
            assert!(text.contains(part), "{part}\n{text}");
        }
        assert_eq!(reachable("0.0.0.0:25".parse().unwrap()), "127.0.0.1:25".parse().unwrap());
    }
}

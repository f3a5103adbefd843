//! What options come to: messages, TLS, and what a report says of them.

use std::time::SystemTime;

use super::RunError;
use crate::client::Pipelining;
use crate::corpus;
use crate::limits::MISCHIEF_CONTENT_LEN;
use crate::options::{LoadArgs, Size, TlsArg};
use crate::profile::Profile;
use crate::report::{Setup, SizesOf};
use crate::secure::{Begin, Terms};
use crate::workload::{Contents, Recipe, Transfer, Workload};

/// What the run sends.
pub(super) fn recipe(args: &LoadArgs) -> Result<Recipe, RunError> {
    let octets = |len: u64| usize::try_from(len).unwrap_or(usize::MAX);
    let contents = match (&args.corpus, args.size) {
        (Some(directory), _) => Contents::Files(corpus::load(directory, args.is_eight_bit())?),
        (None, Size::Fixed(len)) => Contents::Fixed(octets(len)),
        (None, Size::LogNormal { median, sigma }) => Contents::LogNormal { median: median as f64, sigma },
    };
    let transfer = match (args.bdat, args.chunk) {
        (false, _) => Transfer::Data,
        (true, chunk) => Transfer::Bdat { chunk_len: chunk.map_or(usize::MAX, octets) },
    };
    Ok(Recipe { contents, transfer, ..envelope(args) })
}

/// What misbehaving clients send: short, and by DATA.
pub(super) fn mischief_recipe(args: &LoadArgs) -> Recipe {
    Recipe { contents: Contents::Fixed(MISCHIEF_CONTENT_LEN), ..envelope(args) }
}

fn envelope(args: &LoadArgs) -> Recipe {
    Recipe {
        helo: args.helo.clone(),
        reverse_path: args.reverse_path().to_owned(),
        forward_paths: args.forward_paths(),
        contents: Contents::Fixed(0),
        transfer: Transfer::Data,
        eight_bit: args.is_eight_bit(),
        utf8: args.smtputf8,
        seed: args.seed,
        now: SystemTime::now(),
    }
}

/// What all threads have in common, so that one resumes what another began.
pub(super) fn tls(args: &LoadArgs) -> Result<Option<Terms>, RunError> {
    let Some(when) = args.tls else { return Ok(None) };
    let begin = match when {
        TlsArg::Starttls => Begin::StartTls,
        TlsArg::Implicit => Begin::AtOnce,
    };
    Terms::new(begin, &args.tls_name, args.tls_resume, args.tls_1_2).map(Some).map_err(RunError::Usage)
}

pub(super) fn setup(server: &str, args: &LoadArgs, threads: u32, run: u64, workload: &Workload) -> Setup {
    let (spread, profile) = (workload.spread(), args.profile());
    Setup {
        server: server.to_owned(),
        connections: args.connections,
        threads,
        size: spread.mean.round() as u64,
        sizes: SizesOf {
            from: match (&args.corpus, args.size) {
                (Some(_), _) => "corpus",
                (None, Size::Fixed(_)) => "fixed",
                (None, Size::LogNormal { .. }) => "lognormal",
            },
            count: spread.count,
            least: spread.least,
            most: spread.most,
        },
        recipients: args.forward_paths().len(),
        transfer: if args.bdat { "bdat" } else { "data" },
        chunk: args.chunk,
        body: if args.is_eight_bit() { "8bitmime" } else { "7bit" },
        smtputf8: args.smtputf8,
        pipelining: match args.pipelining() {
            Pipelining::Offered => "where offered",
            Pipelining::Required => "on",
            Pipelining::Off => "off",
        },
        tls: match args.tls {
            None => "off",
            Some(TlsArg::Starttls) => "starttls",
            Some(TlsArg::Implicit) => "implicit",
        },
        arrivals: if profile.is_some() { "open" } else { "closed" },
        profile: profile.as_ref().map(ToString::to_string),
        poisson: args.poisson,
        rate: profile.as_ref().and_then(Profile::steady_rate),
        messages_per_connection: args.messages_per_connection,
        run: format!("{run:016x}"),
        kernel: rustix::system::uname().release().to_string_lossy().into_owned(),
        version: env!("CARGO_PKG_VERSION"),
    }
}

/// Names the run: microseconds since 1970 and the process, so that two runs differ.
pub(super) fn run_number() -> u64 {
    let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    (since_1970.as_micros() as u64) << 12 | u64::from(std::process::id() & 0xfff)
}

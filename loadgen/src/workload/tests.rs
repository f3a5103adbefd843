//! Messages as they leave, and as a server that obeys the RFCs stores them.

use std::collections::BTreeSet;
use std::time::Duration;

use super::*;

pub(crate) fn recipe(content_len: usize) -> Recipe {
    Recipe {
        helo: "loadgen.example".into(),
        reverse_path: "sender@example.net".into(),
        forward_paths: vec!["recipient@example.com".into()],
        contents: Contents::Fixed(content_len),
        transfer: Transfer::Data,
        eight_bit: false,
        utf8: false,
        seed: 1,
        now: SystemTime::UNIX_EPOCH + Duration::from_secs(1_709_210_096),
    }
}

const TOKEN: Token = Token { run: 0xfeed_0000_0000_0001, connection: 42, number: 7 };

fn sent(workload: &Workload, token: Token) -> Vec<u8> {
    let mut wire = Vec::new();
    let mut sent_len = 0;
    while sent_len < workload.wire_len(token) {
        let mut piece = Vec::new();
        let reached = workload.append_content(token, sent_len, &mut piece);
        assert!(piece.len() <= SEND_LEN_MAX && reached > sent_len);
        wire.extend_from_slice(&piece);
        sent_len = reached;
    }
    wire
}

/// What a server stores of content sent by DATA, computed the slow way.
fn unstuff(wire: &[u8]) -> Vec<u8> {
    let content = wire.strip_suffix(b".\r\n").expect("end-of-data");
    content
        .split_inclusive(|&octet| octet == b'\n')
        .flat_map(|line| line.strip_prefix(b".").unwrap_or(line))
        .copied()
        .collect()
}

/// The same of content sent by BDAT, and the lengths of its chunks.
fn unchunk(mut wire: &[u8]) -> (Vec<u8>, Vec<usize>) {
    let (mut content, mut lens) = (Vec::new(), Vec::new());
    loop {
        let end = memchr::memchr(b'\n', wire).expect("a command");
        let command = std::str::from_utf8(&wire[..end]).expect("ASCII").trim_end();
        let mut words = command.strip_prefix("BDAT ").expect("BDAT").split(' ');
        let len = words.next().expect("a length").parse().expect("a number");
        content.extend_from_slice(&wire[end + 1..end + 1 + len]);
        wire = &wire[end + 1 + len..];
        lens.push(len);
        if words.next() == Some("LAST") {
            assert!(wire.is_empty(), "nothing behind the last chunk");
            return (content, lens);
        }
    }
}

#[test]
fn content_has_exactly_the_size_asked_for() {
    let least = Workload::new(&recipe(0)).expect_err("no room").least;
    let bdat = |len| Recipe { transfer: Transfer::Bdat { chunk_len: usize::MAX }, ..recipe(len) };
    for len in (least..least + 400).chain([4096, 65_536, 1_000_001]) {
        let workload = Workload::new(&recipe(len)).expect("room");
        let content = unstuff(&sent(&workload, TOKEN));
        assert_eq!((content.len(), workload.content_len(TOKEN)), (len, len));
        assert!(content.ends_with(b"\r\n"));
        assert_eq!(
            memchr::memchr_iter(b'\n', &content).count(),
            memchr::memmem::find_iter(&content, b"\r\n").count()
        );
        let by_bdat = Workload::new(&bdat(len)).expect("room");
        assert_eq!(unchunk(&sent(&by_bdat, TOKEN)), (content, vec![len]), "the same content by BDAT");
    }
    assert!(Workload::new(&recipe(least - 1)).is_err());
}

#[test]
fn chunks_have_the_length_asked_for_and_the_token_survives_their_seams() {
    let whole = unstuff(&sent(&Workload::new(&recipe(2000)).expect("room"), TOKEN));
    for chunk_len in [1, 7, 33, 1999, 2000, 2001] {
        let transfer = Transfer::Bdat { chunk_len };
        let workload = Workload::new(&Recipe { transfer, ..recipe(2000) }).expect("room");
        let (content, lens) = unchunk(&sent(&workload, TOKEN));
        assert_eq!(content, whole);
        let (last, others) = lens.split_last().expect("chunks");
        assert!(others.iter().all(|&len| len == chunk_len) && *last <= chunk_len, "{lens:?}");
    }
}

#[test]
fn nothing_before_the_end_looks_like_the_end() {
    let wire = sent(&Workload::new(&recipe(100_000)).expect("room"), TOKEN);
    assert_eq!(memchr::memmem::find(&wire, b"\r\n.\r\n"), Some(wire.len() - 5));
    assert!(memchr::memmem::find_iter(&wire, b"\r\n..").count() > 50);
}

#[test]
fn the_token_stands_in_three_fields() {
    let content = unstuff(&sent(&Workload::new(&recipe(2000)).expect("room"), TOKEN));
    let text = String::from_utf8(content).expect("ASCII");
    let token = "feed000000000001-000042-0000000007";
    assert!(text.contains(&format!("\r\nX-Loadgen: {token}\r\n")), "{text}");
    assert!(text.contains(&format!("\r\nMessage-ID: <{token}@loadgen.invalid>\r\n")));
    assert!(text.contains(&format!("\r\nSubject: {token}\r\n")));
    assert!(text.starts_with("Date: Thu, 29 Feb 2024 12:34:56 +0000\r\n"), "{text}");
    assert!(text.is_ascii() && text.contains("charset=us-ascii"));
}

#[test]
fn a_group_ends_with_data() {
    let mut recipe = recipe(1000);
    recipe.reverse_path.clear();
    recipe.forward_paths.push("other@example.com".into());
    let workload = Workload::new(&recipe).expect("room");
    let mut group = Vec::new();
    workload.append_group(TOKEN, true, &mut group);
    let expected = "MAIL FROM:<> SIZE=1000\r\nRCPT TO:<recipient@example.com>\r\nRCPT TO:<other@example.com>\r\nDATA\r\n";
    assert_eq!(String::from_utf8(group).as_deref(), Ok(expected));
    assert_eq!(workload.mail(TOKEN, false), b"MAIL FROM:<>\r\n");
}

#[test]
fn what_is_not_ascii_is_declared_and_needed() {
    let (eight_bit, utf8) = (true, true);
    let reverse_path = "s\u{eb}nder@example.net".to_owned();
    let workload = Workload::new(&Recipe { eight_bit, utf8, reverse_path, ..recipe(2000) }).expect("room");
    let mail = String::from_utf8(workload.mail(TOKEN, true).to_vec()).expect("UTF-8");
    assert_eq!(mail, "MAIL FROM:<s\u{eb}nder@example.net> SIZE=2000 BODY=8BITMIME SMTPUTF8\r\n");
    assert_eq!(workload.needed, Extensions::from_iter([Extension::EightBitMime, Extension::SmtpUtf8]));
    let content = unstuff(&sent(&workload, TOKEN));
    assert_eq!(content.len(), 2000);
    let text = String::from_utf8(content).expect("UTF-8");
    let (header, body) = text.split_once("\r\n\r\n").expect("a header section");
    assert!(
        header.contains("\r\nFrom: <s\u{eb}nder@example.net>") && header.contains("charset=utf-8"),
        "{header}"
    );
    assert!(header.contains("Content-Transfer-Encoding: 8bit") && !body.is_ascii());
}

#[test]
fn drawn_sizes_are_distributed_as_asked_and_come_again_with_their_seed() {
    let lens_of = |seed| {
        let contents = Contents::LogNormal { median: 8000.0, sigma: 1.0 };
        let workload = Workload::new(&Recipe { contents, seed, ..recipe(0) }).expect("room");
        let token = |number| Token { number, ..TOKEN };
        for number in 0..50 {
            let content = unstuff(&sent(&workload, token(number)));
            assert_eq!(content.len(), workload.content_len(token(number)));
        }
        (0..20_000).map(|number| workload.content_len(token(number))).collect::<Vec<_>>()
    };
    let mut lens = lens_of(1);
    assert_eq!(lens, lens_of(1));
    assert_ne!(lens, lens_of(2));
    lens.sort_unstable();
    // Of a normal distribution, 84.13 % are below the mean and one deviation.
    let (median, above) = (lens[10_000] as f64, lens[16_827] as f64);
    assert!((7600.0..8400.0).contains(&median), "{median}");
    assert!((1.0 - (above / median).ln()).abs() < 0.05, "{above}");
}

#[test]
fn sizes_have_bounds_whatever_the_distribution() {
    let contents = Contents::LogNormal { median: 60e6, sigma: 4.0 };
    let workload = Workload::new(&Recipe { contents, ..recipe(0) }).expect("room");
    let least = Workload::new(&recipe(0)).expect_err("no room").least;
    let spread = workload.spread();
    assert_eq!((spread.least, spread.most), (least, SIZE_DRAWN_MAX));
    // With the stuffed dots.
    assert!(workload.stock.len() < SIZE_DRAWN_MAX + SIZE_DRAWN_MAX / LINE_LEN);
}

#[test]
fn each_file_of_a_corpus_is_a_message() {
    let files = vec![b"Subject: a\n\n.dot\n".to_vec(), b"Subject: b\r\n\r\nno end".to_vec()];
    let normal = [&b"Subject: a\r\n\r\n.dot\r\n"[..], b"Subject: b\r\n\r\nno end\r\n"];
    let contents = Contents::Files(files);
    let data = Workload::new(&Recipe { contents: contents.clone(), ..recipe(0) }).expect("files");
    let transfer = Transfer::Bdat { chunk_len: 20 };
    let bdat = Workload::new(&Recipe { contents, transfer, ..recipe(0) }).expect("files");
    let mut seen = BTreeSet::new();
    for number in 0..100 {
        let token = Token { number, ..TOKEN };
        let content = unstuff(&sent(&data, token));
        assert_eq!(content.len(), data.content_len(token));
        assert_eq!(content, unchunk(&sent(&bdat, token)).0);
        let field = format!("X-Loadgen: feed000000000001-000042-{number:010}\r\n");
        let file = content.strip_prefix(field.as_bytes()).expect("the field in front");
        assert!(normal.contains(&file), "{}", file.escape_ascii());
        seen.insert(file.to_vec());
    }
    assert_eq!(seen.len(), 2, "both are sent");
}

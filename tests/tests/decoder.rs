//! The content decoder against the oracle: every short input, every split, long inputs at random.

use tests::oracle::{self, Decoding, decode_pieces};
use tests::random::Random;

const END: &[u8] = b"\r\n.\r\n";

fn show(input: &[u8]) -> String {
    input.escape_ascii().to_string()
}

/// Every input of `len` octets out of those that matter, with the end of the data behind it.
fn each_short(len: u32, mut judge: impl FnMut(&[u8], &Decoding)) {
    const OCTETS: &[u8; 4] = b"\r\n.a";
    for number in 0..4usize.pow(len) {
        let digits = (0..len).map(|digit| OCTETS[number / 4usize.pow(digit) % 4]);
        let input: Vec<u8> = digits.chain(END.iter().copied()).collect();
        judge(&input, &oracle::decode(&input).expect("the end is there"));
    }
}

#[test]
fn every_short_input_whole_and_by_octets() {
    for len in 0..=8 {
        each_short(len, |input, expected| {
            assert_eq!(decode_pieces([input]).as_ref(), Some(expected), "{}", show(input));
            assert_eq!(decode_pieces(input.chunks(1)).as_ref(), Some(expected), "{} by octets", show(input));
            oracle::assert_safe(expected);
        });
    }
}

#[test]
fn every_short_input_at_every_split() {
    for len in 0..=6 {
        each_short(len, |input, expected| {
            for at in 0..=input.len() {
                let (head, tail) = input.split_at(at);
                assert_eq!(decode_pieces([head, tail]).as_ref(), Some(expected), "{} at {at}", show(input));
            }
        });
    }
}

#[test]
fn what_follows_the_end_is_left() {
    each_short(4, |input, expected| {
        let longer = [input, b"QUIT\r\n.\r\n"].concat();
        assert_eq!(decode_pieces([&longer[..]]).as_ref(), Some(expected), "{}", show(&longer));
    });
}

#[test]
fn without_an_end_there_is_none() {
    for input in [&b""[..], b".", b".\r", b"x\r\n.", b"x\r\n.\r", b"x\n.\n", b"x\r\n..\r\n", b"\r\n.\r\r"] {
        assert_eq!(oracle::decode(input), None, "{}", show(input));
        assert_eq!(decode_pieces([input]), None, "{}", show(input));
        assert_eq!(decode_pieces(input.chunks(1)), None, "{}", show(input));
    }
}

#[test]
fn long_inputs_in_random_pieces() {
    const TOKENS: &[&[u8]] = &[
        b"\r\n",
        b"\r\n",
        b"\r\n",
        b"\r\n.",
        b"\r\n..",
        b"\n",
        b"\r",
        b".",
        b"text of a line",
        b"\xff\0",
        b"\r\r\n",
    ];
    for seed in 0..300 {
        let mut random = Random::new(seed);
        let mut input = Vec::new();
        for _ in 0..random.below(400) {
            match random.below(30) {
                0 => input.extend(std::iter::repeat_n(b'x', random.below(5000))),
                _ => input.extend_from_slice(TOKENS[random.below(TOKENS.len())]),
            }
        }
        input.extend_from_slice(END);
        let expected = oracle::decode(&input);
        for _ in 0..4 {
            let pieces = oracle::random_pieces(&input, &mut random);
            assert_eq!(decode_pieces(pieces), expected, "seed {seed}: {}", show(&input));
        }
    }
}

#[test]
fn what_was_stuffed_comes_back() {
    // The other way round: content with proper line ends, stuffed as a client does it.
    for seed in 0..200 {
        let mut random = Random::new(seed);
        let mut content = Vec::new();
        for _ in 0..random.below(50) {
            let line: Vec<u8> = (0..random.below(80)).map(|_| *random.pick(b".. ab\t\xe9\0")).collect();
            content.extend_from_slice(&line);
            content.extend_from_slice(b"\r\n");
        }
        let mut wire = Vec::new();
        for line in content.split_inclusive(|&octet| octet == b'\n') {
            wire.extend_from_slice(if line.starts_with(b".") { b"." } else { b"" });
            wire.extend_from_slice(line);
        }
        wire.extend_from_slice(b".\r\n");
        let decoding = decode_pieces(oracle::random_pieces(&wire, &mut random)).expect("the end is there");
        assert_eq!(decoding.content, content, "seed {seed}");
        assert!(!decoding.end.bare_newlines && !decoding.end.lookalike);
    }
}

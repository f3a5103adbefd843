//! The content decoder against the oracle: every short input, every split, long inputs at random.

use ringmx::policy::newline::{BareNewline, Refusal};
use tests::oracle::{self, Decoding, chunks_in_pieces, decode_pieces};
use tests::random::Random;

const END: &[u8] = b"\r\n.\r\n";

fn show(input: &[u8]) -> String {
    input.escape_ascii().to_string()
}

/// Every input of `len` octets out of those that matter, with the end of the data behind it.
fn each_short(len: u32, mut judge: impl FnMut(&[u8], &Decoding)) {
    const OCTETS: &[u8; 5] = b"\r\n.\0a";
    for number in 0..5usize.pow(len) {
        let digits = (0..len).map(|digit| OCTETS[number / 5usize.pow(digit) % 5]);
        let input: Vec<u8> = digits.chain(END.iter().copied()).collect();
        judge(&input, &oracle::decode(&input).expect("the end is there"));
    }
}

#[test]
fn every_short_input_whole_and_by_octets() {
    for len in 0..=7 {
        each_short(len, |input, expected| {
            assert_eq!(decode_pieces([input]).as_ref(), Some(expected), "{}", show(input));
            assert_eq!(decode_pieces(input.chunks(1)).as_ref(), Some(expected), "{} by octets", show(input));
            oracle::assert_safe(expected);
        });
    }
}

#[test]
fn every_short_input_at_every_split() {
    for len in 0..=5 {
        each_short(len, |input, expected| {
            for at in 0..=input.len() {
                let (head, tail) = input.split_at(at);
                assert_eq!(decode_pieces([head, tail]).as_ref(), Some(expected), "{} at {at}", show(input));
            }
        });
    }
}

#[test]
fn every_short_content_of_chunks_at_every_split() {
    for len in 0..=5 {
        each_short(len, |input, _| {
            // The end of data is content too.
            for input in [input, &input[..input.len() - END.len()]] {
                let expected = oracle::decode_chunks(input);
                oracle::assert_safe(&expected);
                assert_eq!(chunks_in_pieces(input.chunks(1)), expected, "{} by octets", show(input));
                for at in 0..=input.len() {
                    let (head, tail) = input.split_at(at);
                    assert_eq!(chunks_in_pieces([head, tail]), expected, "{} at {at}", show(input));
                }
            }
        });
    }
}

/// Everything that is known to have been taken for end-of-data by some server, whatever stands around it: what comes of
/// it with each choice of the listener.
#[test]
fn each_known_end_of_data_has_its_verdict() {
    use Verdict::{Bare, End, Lookalike, Taken};
    // Behind a line of text and its CRLF; another line of text follows. Normalize, reject, note; and as content of a
    // chunk the same.
    const VARIANTS: &[(&[u8], [Verdict; 3], [Verdict; 3])] = &[
        (b".\r\n", [End; 3], [Taken; 3]),
        (b".\n", [Lookalike, Lookalike, Taken], [Lookalike, Lookalike, Taken]),
        (b".\r", [Lookalike, Lookalike, Taken], [Lookalike, Lookalike, Taken]),
        (b".\r\r\n", [Lookalike, Lookalike, Taken], [Lookalike, Lookalike, Taken]),
        (b"\n.\n", [Lookalike, Lookalike, Taken], [Lookalike, Lookalike, Taken]),
        (b"\n.\r\n", [Lookalike, Lookalike, Taken], [Lookalike, Lookalike, Taken]),
        (b"\n.\r", [Lookalike, Lookalike, Taken], [Lookalike, Lookalike, Taken]),
        (b"\r.\n", [Lookalike, Lookalike, Taken], [Lookalike, Lookalike, Taken]),
        (b"\r.\r\n", [Lookalike, Lookalike, Taken], [Lookalike, Lookalike, Taken]),
        (b"\r.\r", [Lookalike, Lookalike, Taken], [Lookalike, Lookalike, Taken]),
        (b"\r\n.\n", [Lookalike, Lookalike, Taken], [Lookalike, Lookalike, Taken]),
        (b"\r\n.\r", [Lookalike, Lookalike, Taken], [Lookalike, Lookalike, Taken]),
        (b"..\n", [Lookalike, Lookalike, Taken], [Taken, Bare, Taken]),
        (b"\0.\r\n", [Lookalike; 3], [Lookalike; 3]),
        (b".\0\r\n", [Lookalike; 3], [Lookalike; 3]),
        (b".\0.\r\n", [Lookalike; 3], [Taken; 3]),
        (b".\r\0\n", [Lookalike, Lookalike, Taken], [Lookalike, Lookalike, Taken]),
        (b"\r\0\n.\r\n", [Lookalike, Lookalike, Taken], [Lookalike, Lookalike, Taken]),
        (b" .\r\n", [Taken; 3], [Taken; 3]),
        (b". \r\n", [Taken; 3], [Taken; 3]),
        (b"..\r\n", [Taken; 3], [Taken; 3]),
        (b"\n", [Taken, Bare, Taken], [Taken, Bare, Taken]),
        (b"\r", [Taken, Bare, Taken], [Taken, Bare, Taken]),
    ];
    #[derive(Clone, Copy, Debug, PartialEq)]
    enum Verdict {
        /// It ends the data.
        End,
        Lookalike,
        Bare,
        Taken,
    }
    let verdict = |choice: BareNewline, decoding: &Decoding| match choice.verdict(decoding.end) {
        Ok(()) => Taken,
        Err(Refusal::Lookalike) => Lookalike,
        Err(Refusal::BareNewline) => Bare,
    };
    for &(variant, of_data, of_chunks) in VARIANTS {
        let text = [b"text\r\n", variant, b"text\r\n"].concat();
        let input = [&text[..], b".\r\n"].concat();
        let decoding = decode_pieces([&input[..]]).expect("the end is there");
        let chunks = chunks_in_pieces([&text[..]]);
        assert_eq!(Some(&decoding), oracle::decode(&input).as_ref(), "{}", show(variant));
        assert_eq!(chunks, oracle::decode_chunks(&text), "{}", show(variant));
        for (index, choice) in BareNewline::ALL.into_iter().enumerate() {
            let ended = decoding.consumed < input.len();
            let found = if ended { End } else { verdict(choice, &decoding) };
            assert_eq!(found, of_data[index], "{} {choice:?}", show(variant));
            assert_eq!(verdict(choice, &chunks), of_chunks[index], "{} {choice:?} in a chunk", show(variant));
        }
    }
}

/// Whatever a listener takes, stored and sent on, ends once: for every short content and every choice.
#[test]
fn what_is_taken_is_safe_to_send_on() {
    for len in 0..=6 {
        each_short(len, |input, expected| {
            let chunks = oracle::decode_chunks(input);
            for decoding in [expected, &chunks] {
                for choice in BareNewline::ALL {
                    if choice.verdict(decoding.end).is_ok() {
                        assert!(!decoding.end.nul_lookalike);
                        oracle::assert_safe(decoding);
                    }
                }
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
        b"\0",
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
            let pieces = oracle::random_pieces(&input, &mut random);
            assert_eq!(
                chunks_in_pieces(pieces),
                oracle::decode_chunks(&input),
                "seed {seed}: {}",
                show(&input)
            );
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
            let line: Vec<u8> = (0..random.below(80)).map(|_| *random.pick(b".. ab\t\xe9")).collect();
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

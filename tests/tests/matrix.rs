//! Every line in every phase against the model of `tests::matrix`, alone and in long walks; whole, one octet at a time
//! and in random pieces.

use std::time::Duration;

use tests::matrix::{Class, LINES, Model, codes};
use tests::oracle;
use tests::pair::{Commits, Options, Pair, Stored};
use tests::phases::{GUARDED, PHASES, Phase};
use tests::random::Random;

/// The pair, its pending commit done; what that says is not looked at.
fn pair(phase: Phase) -> Pair {
    let mut pair = phase.pair(&Options::default());
    if pair.is_committing() {
        pair.complete(Ok(()));
        pair.set_commits(Commits::Succeed);
        pair.replies();
    }
    pair
}

fn octets(lines: &[(&str, Class)]) -> Vec<u8> {
    lines.iter().flat_map(|(line, _)| [line.as_bytes(), b"\r\n"].concat()).collect()
}

fn play(phase: Phase, pieces: &[&[u8]]) -> (Vec<u8>, bool, Vec<Stored>) {
    let mut pair = pair(phase);
    pieces.iter().for_each(|piece| pair.send(piece));
    while pair.is_delayed() {
        pair.wait(Duration::from_secs(1));
    }
    (pair.replies(), pair.is_closed(), std::mem::take(&mut pair.stored))
}

/// Plays the lines in each kind of splits, and gives the codes of the replies.
fn play_every_way(phase: Phase, lines: &[(&str, Class)], random: &mut Random) -> Vec<u16> {
    let octets = octets(lines);
    let whole = play(phase, &[&octets]);
    assert_eq!(play(phase, &octets.chunks(1).collect::<Vec<_>>()), whole, "{phase:?}: {lines:?}: by octets");
    let pieces = oracle::random_pieces(&octets, random);
    assert_eq!(play(phase, &pieces), whole, "{phase:?}: {lines:?}: in pieces {pieces:?}");
    codes(&whole.0)
}

#[test]
fn every_line_in_every_phase_is_answered_as_the_model_says() {
    let mut random = Random::new(1);
    for phase in PHASES.iter().chain(GUARDED) {
        for line in LINES {
            let expected = Model::new(*phase).line(line.0, line.1);
            let answered = play_every_way(*phase, &[*line], &mut random);
            assert_eq!(answered, expected, "{phase:?}: {line:?}");
        }
    }
}

/// Lines behind a commit that is pending wait for it and are answered behind its reply, in order.
#[test]
fn every_line_behind_a_commit_is_answered_behind_it() {
    for line in LINES {
        let mut pair = Phase::Committing.pair(&Options::default());
        pair.send(&octets(&[*line]));
        assert_eq!(pair.replies(), b"", "{line:?}");
        pair.complete(Ok(()));
        let expected = [vec![250], Model::new(Phase::Committing).line(line.0, line.1)].concat();
        assert_eq!(codes(&pair.replies()), expected, "{line:?}");
    }
}

/// Two lines show the state that the first left behind.
#[test]
fn every_pair_of_lines_in_every_phase_is_answered_as_the_model_says() {
    for phase in PHASES.iter().chain(GUARDED) {
        for first in LINES {
            for second in LINES {
                let mut model = Model::new(*phase);
                let lines = [*first, *second];
                let expected: Vec<u16> =
                    lines.iter().flat_map(|(line, class)| model.line(line, *class)).collect();
                let (replies, ..) = play(*phase, &[&octets(&lines)]);
                assert_eq!(codes(&replies), expected, "{phase:?}: {first:?}, {second:?}");
            }
        }
    }
}

/// Long walks reach what pairs do not: several transactions, used-up patience. Transactions are walked into more often
/// than by chance.
#[test]
fn walks_from_every_phase_are_answered_as_the_model_says() {
    const WALKS_COUNT: u64 = 300;
    let likely: Vec<(&str, Class)> = LINES
        .iter()
        .copied()
        .filter(|(line, class)| {
            *line == "." || !matches!(class, Class::Wrong(_) | Class::Quit | Class::Unreadable)
        })
        .collect();
    let (mut messages_count, mut dismissed_count) = (0, 0);
    for phase in PHASES.iter().chain(GUARDED) {
        for seed in 0..WALKS_COUNT {
            let mut random = Random::new(seed);
            let (mut model, mut lines, mut expected) = (Model::new(*phase), Vec::new(), Vec::new());
            let wild = 1 + random.below(20);
            for _ in 0..1 + random.below(60) {
                let among = if random.one_in(wild) { LINES } else { &likely };
                let (line, class) = *random.pick(among);
                expected.extend(model.line(line, class));
                lines.push((line, class));
            }
            assert_eq!(
                play_every_way(*phase, &lines, &mut random),
                expected,
                "{phase:?}: seed {seed}: {lines:?}"
            );
            messages_count += expected.windows(2).filter(|codes| codes == &[354, 250]).count();
            dismissed_count += usize::from(expected.last() == Some(&421));
        }
    }
    assert!(
        messages_count > 100 && dismissed_count > 100,
        "{messages_count} messages, {dismissed_count} dismissals"
    );
}

//! One bit of a file flips: what an operator and the next start see of it. `spool/tests.rs` has every bit of a segment.

use super::*;

/// A spool with messages 1 to 3 in one batch and 4 in another, of which 2 is delivered; the server is down.
fn spool() -> (TempDir, Arc<Segment>, Vec<Place>) {
    let dir = TempDir::new().unwrap();
    let (_keeper, handles, _feeds) = start(dir.path(), 1);
    let segment = take(&handles[0]);
    let mut state = GroupCommit::new();
    state.use_segment(&segment.header());
    let mut places = commit(&mut state, &segment, 1..4);
    places.extend(commit(&mut state, &segment, [4]));
    acknowledge(&segment, |number| number == 2);
    (dir, segment, places)
}

/// What is listed, and how much damage was met.
fn states(path: &Path) -> (BTreeMap<u32, State>, u64) {
    let mut states = BTreeMap::new();
    let damages_count = inspect::list(path, &mut |item| {
        assert_eq!(item.content, content(item.id.transaction));
        states.insert(item.id.transaction, item.state);
        ControlFlow::Continue(())
    })
    .unwrap();
    (states, damages_count)
}

const EXPECTED: [(u32, State); 4] =
    [(1, State::Undelivered), (2, State::Delivered), (3, State::Undelivered), (4, State::Undelivered)];

#[test]
fn in_a_segment_it_is_reported_with_place_and_id() {
    let (dir, segment, places) = spool();
    let original = fs::read(&segment.path).unwrap();
    let end = places[3].offset as usize + record::encoded_len(8, content(4).len());
    for at in (0..end).step_by(13) {
        let flipped = [original[at] ^ (1 << (at % 8))];
        segment.file.write_all_at(&flipped, at as u64).unwrap();
        let findings = inspect::verify(dir.path()).unwrap();
        let hit = places.iter().zip(1u32..).find(|(place, number)| {
            (place.offset as usize..place.offset as usize + 72 + content(*number).len()).contains(&at)
        });
        let mut expected = BTreeMap::from(EXPECTED);
        match hit {
            Some((place, number)) => {
                expected.remove(&number);
                let [finding] = &findings[..] else { panic!("byte {at}: {findings:?}") };
                assert_eq!((finding.offset, &finding.path), (place.offset, &segment.path), "byte {at}");
                let is_payload = at as u64 >= place.offset + 64;
                assert_eq!(finding.id, is_payload.then(|| id(number)), "byte {at}");
                // Of the last batch nobody knows whether its write had ended.
                assert_eq!(finding.is_error, number < 4, "byte {at}");
            }
            None if at < 4096 => assert!(findings.len() == 1 && !findings[0].is_error, "byte {at}"),
            None => assert!(findings.len() <= 1, "byte {at}: {findings:?}"),
        }
        let damages_count = findings.iter().filter(|finding| finding.is_error).count() as u64;
        assert_eq!(states(dir.path()), (expected, damages_count), "byte {at}");
        segment.file.write_all_at(&original[at..=at], at as u64).unwrap();
    }
}

#[test]
fn in_an_acknowledgement_it_brings_the_message_back_and_is_reported() {
    let (dir, segment, _) = spool();
    let original = fs::read(segment.ack_path()).unwrap();
    for bit in 0..original.len() * 8 {
        let mut bytes = original.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        fs::write(segment.ack_path(), bytes).unwrap();
        let findings = inspect::verify(dir.path()).unwrap();
        let expected = (segment.ack_path(), 0, false);
        let found: Vec<_> =
            findings.into_iter().map(|finding| (finding.path, finding.offset, finding.is_error)).collect();
        assert_eq!(found, [expected], "bit {bit}");
        let expected = EXPECTED.map(|(number, _)| (number, State::Undelivered));
        assert_eq!(states(dir.path()), (expected.into(), 0), "bit {bit}");
    }
}

#[test]
fn in_the_marker_it_refuses_the_start_or_changes_nothing() {
    let (dir, ..) = spool();
    let marker = dir.path().join("ringmx-spool");
    let original = fs::read(&marker).unwrap();
    let mut refused_count = 0;
    for bit in 0..original.len() * 8 {
        let mut bytes = original.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        fs::write(&marker, bytes).unwrap();
        match Spool::open(options(dir.path(), 1)) {
            Ok(_) => assert_eq!(states(dir.path()), (EXPECTED.into(), 0), "bit {bit}"),
            Err(StoreError::BadMarker { .. } | StoreError::Newer { .. }) => refused_count += 1,
            Err(error) => panic!("bit {bit}: {error}"),
        }
    }
    assert!(refused_count > original.len() * 7, "{refused_count}");
}

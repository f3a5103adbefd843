//! Plays every file of `dialogue/`: whole writes, one octet at a time, and splits at random places.
//!
//! `DIALOGUE=name cargo test -p tests --test dialogue -- --nocapture` plays one and shows what was said.

use tests::dialogue::{Dialogue, Splits};

/// Seeds of the random splits; the failing one is in the message.
const SEEDS: std::ops::Range<u64> = 1..9;

fn play(dialogue: &Dialogue) -> Result<(), String> {
    let whole = dialogue.run(Splits::Whole)?;
    if std::env::var_os("DIALOGUE").is_some() {
        println!("{}\n{}", dialogue.name, whole.transcript);
    }
    for splits in [Splits::Octets].into_iter().chain(SEEDS.map(Splits::Random)) {
        let split = dialogue.run(splits)?;
        if split != whole {
            return Err(format!(
                "{}.smtp ({splits:?}): the split changes the outcome:\n{}\nwhole:\n{}",
                dialogue.name, split.transcript, whole.transcript
            ));
        }
    }
    Ok(())
}

#[test]
fn every_dialogue_goes_as_written() {
    let only = std::env::var("DIALOGUE").ok();
    let mut dialogues = Dialogue::all();
    dialogues.retain(|dialogue| match (dialogue, &only) {
        (Ok(dialogue), Some(only)) => dialogue.name == *only,
        _ => true,
    });
    assert!(!dialogues.is_empty(), "no dialogue");
    let played = dialogues.into_iter().map(|dialogue| dialogue.and_then(|dialogue| play(&dialogue)));
    let failures: Vec<String> = played.filter_map(Result::err).collect();
    assert!(failures.is_empty(), "{} failed:\n\n{}", failures.len(), failures.join("\n"));
}

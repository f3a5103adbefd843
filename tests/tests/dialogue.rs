//! Plays every file of `dialogue/`: whole writes, one octet at a time, and splits at random places.
//!
//! `DIALOGUE=name cargo test -p tests --test dialogue -- --nocapture` plays one and shows what was said.

use std::path::Path;

use tests::dialogue::{Dialogue, Splits};
use tests::source;

/// Seeds of the random splits; the failing one is in the message.
const SEEDS: std::ops::Range<u64> = 1..9;

fn dialogues() -> Vec<Result<Dialogue, String>> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("dialogue");
    let only = std::env::var("DIALOGUE").ok();
    let wanted = |path: &&std::path::PathBuf| {
        only.as_ref()
            .is_none_or(|only| path.file_stem().is_some_and(|stem| stem.to_string_lossy() == only.as_str()))
    };
    source::files(&dir).iter().filter(wanted).map(|path| Dialogue::read(path)).collect()
}

fn play(dialogue: &Dialogue) -> Result<(), String> {
    let whole = dialogue.run(Splits::Whole)?;
    if std::env::var_os("DIALOGUE").is_some() {
        println!("{}\n{}", dialogue.name, whole.0);
    }
    for splits in [Splits::Octets].into_iter().chain(SEEDS.map(Splits::Random)) {
        let split = dialogue.run(splits)?;
        if split != whole {
            return Err(format!(
                "{}.smtp ({splits:?}): the split changes the outcome:\n{}\nwhole:\n{}",
                dialogue.name, split.0, whole.0
            ));
        }
    }
    Ok(())
}

#[test]
fn every_dialogue_goes_as_written() {
    let dialogues = dialogues();
    assert!(!dialogues.is_empty(), "no dialogue");
    let played = dialogues.into_iter().map(|dialogue| dialogue.and_then(|dialogue| play(&dialogue)));
    let failures: Vec<String> = played.filter_map(Result::err).collect();
    assert!(failures.is_empty(), "{} failed:\n\n{}", failures.len(), failures.join("\n"));
}

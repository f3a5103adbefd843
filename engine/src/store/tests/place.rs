//! Spool directories that are not as a server left them. `tests/tests/spool_places.rs` has those that take another user
//! or another file system.

use super::*;

/// Three segments with a message each; their paths.
fn spool() -> (TempDir, Vec<std::path::PathBuf>) {
    let dir = TempDir::new().unwrap();
    let (_keeper, handles, _feeds) = start(dir.path(), 1);
    let fill = |number| {
        let segment = take(&handles[0]);
        commit_new(&segment, [number]);
        segment.path.clone()
    };
    let paths = [1, 2, 3].map(fill).to_vec();
    (dir, paths)
}

/// Numbers of the messages that a start finds.
fn found(path: &Path) -> Vec<u32> {
    let (_keeper, _handles, feeds) = start(path, 1);
    feeds[0].recovered.iter().flat_map(|segment| read_all(segment).0.into_values()).collect()
}

fn refusal(path: &Path) -> String {
    Spool::open(options(path, 1)).unwrap_err().to_string()
}

#[test]
fn a_deleted_segment_is_missed_and_the_others_are_read() {
    let (dir, paths) = spool();
    fs::remove_file(&paths[1]).unwrap();
    let findings = inspect::verify(dir.path()).unwrap();
    let [finding] = &findings[..] else { panic!("{findings:?}") };
    assert!(finding.is_error && finding.path == paths[1] && finding.text.contains("is gone"), "{finding:?}");
    assert_eq!(found(dir.path()), [1, 3]);
    assert_eq!(inspect::verify(dir.path()).unwrap(), [], "told once");
}

#[test]
fn a_segment_that_was_cut_short_is_told_and_read_as_far_as_it_goes() {
    let (dir, paths) = spool();
    let file = fs::File::options().write(true).open(&paths[1]).unwrap();
    file.set_len(3 * 4096 + 100).unwrap();
    let findings = inspect::verify(dir.path()).unwrap();
    let [finding] = &findings[..] else { panic!("{findings:?}") };
    assert!(finding.is_error && finding.path == paths[1] && finding.text.contains("short"), "{finding:?}");
    assert_eq!(found(dir.path()), [1, 2, 3]);
    file.set_len(0).unwrap();
    assert!(inspect::verify(dir.path()).unwrap().iter().any(|finding| finding.is_error));
    assert_eq!(found(dir.path()), [1, 3]);
    assert!(paths[1].with_extension("damaged").exists());
}

#[test]
fn what_is_no_file_in_a_segments_place_is_named_and_nothing_is_changed() {
    let (dir, paths) = spool();
    let aside = dir.path().join("aside");
    fs::rename(&paths[1], &aside).unwrap();
    fs::create_dir(&paths[1]).unwrap();
    let error = refusal(dir.path());
    assert!(error.contains(paths[1].to_str().unwrap()) && error.contains("move away"), "{error}");
    fs::remove_dir(&paths[1]).unwrap();
    std::os::unix::fs::symlink(&aside, &paths[1]).unwrap();
    let error = refusal(dir.path());
    assert!(error.contains(paths[1].to_str().unwrap()) && error.contains("symbolic link"), "{error}");
    fs::rename(&aside, &paths[1]).unwrap();
    assert_eq!(found(dir.path()), [1, 2, 3]);
}

#[test]
fn foreign_files_are_left_alone_and_told() {
    let (dir, _) = spool();
    let shard = dir.path().join("shard-000");
    let strangers = ["00000001.seg~", "1.seg", "notes.txt"].map(|name| shard.join(name));
    for path in &strangers {
        fs::write(path, "of somebody else").unwrap();
    }
    fs::write(dir.path().join("README"), "of somebody else").unwrap();
    fs::create_dir(dir.path().join("shard-1")).unwrap();
    let findings = inspect::verify(dir.path()).unwrap();
    assert!(findings.iter().all(|finding| !finding.is_error), "{findings:?}");
    assert_eq!(findings.into_iter().map(|finding| finding.path).collect::<Vec<_>>(), strangers);
    assert_eq!(found(dir.path()), [1, 2, 3]);
    for path in strangers.iter().chain([&dir.path().join("README")]) {
        assert_eq!(fs::read(path).unwrap(), b"of somebody else");
    }
    assert!(dir.path().join("shard-1").exists());
}

#[test]
fn a_directory_that_others_fill_becomes_a_spool_beside_their_files() {
    let dir = TempDir::new().unwrap();
    fs::write(dir.path().join("mbox"), "From somebody").unwrap();
    fs::create_dir(dir.path().join("lost+found")).unwrap();
    assert!(found(dir.path()).is_empty());
    assert_eq!(fs::read(dir.path().join("mbox")).unwrap(), b"From somebody");
}

#[test]
fn a_link_to_the_spools_directory_is_followed() {
    let (dir, _) = spool();
    let place = TempDir::new().unwrap();
    let link = place.path().join("spool");
    std::os::unix::fs::symlink(dir.path(), &link).unwrap();
    assert_eq!(found(&link), [1, 2, 3]);
}

#[test]
fn a_file_in_the_directorys_place_is_named() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("spool");
    fs::write(&path, "").unwrap();
    let error = refusal(&path);
    assert!(error.contains(path.to_str().unwrap()) && error.contains("move away"), "{error}");
}

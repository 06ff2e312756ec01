//! Large contents on their way into the store.

use std::fs;

use twdag::digest::Digest;

use crate::place::Place;

#[test]
fn a_content_for_which_there_is_no_room_leaves_nothing_behind() {
    let place = Place::new();
    let (digest, beside) = (Digest::of(b"vast"), place.path("beside"));
    // An exabyte, and more than any file may have.
    for size in [1 << 60, u64::MAX] {
        let problem = place.store.partial(&digest, size, &beside).unwrap_err().to_string();
        let expected = format!("it takes {size} bytes, and ");
        assert!(problem.contains(&expected) && problem.contains("free some space"), "{problem}");
        assert_eq!(fs::read_dir(place.store.derived("scratch")).unwrap().count(), 0);
    }
    // Nor does it keep others from it.
    let partial = place.store.partial(&digest, 5, &beside).unwrap();
    partial.write(b"whole", 0).unwrap();
    partial.flush().unwrap();
    partial.finish(&beside).unwrap();
    assert_eq!(fs::read(&beside).unwrap(), b"whole");
}

use super::*;

#[test]
fn the_builtin_set_loads() {
    assert_eq!(PolicySet::load(&Default::default()).map(|set| set.len()), Ok(0));
}

//! Takes the product's figures.
fn main() {}

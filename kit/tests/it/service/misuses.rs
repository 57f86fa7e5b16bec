//! What rustc tells about a trait that cannot be a service, and at which token. Every misuse that the macros find
//! themselves has its case in `kit-macros` too; here is what it comes to in the end, and what is found by types.

#[test]
fn every_misuse_is_told_at_its_token_and_nothing_beside_it() {
    trybuild::TestCases::new().compile_fail("tests/ui/*.rs");
}

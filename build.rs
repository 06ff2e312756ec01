//! Links the program to a fixed address. Its many tables of addresses, those of the libraries for tensors above all, are
//! then right as they lie in the file; otherwise each start of the program, and of each of its workers, rewrites them
//! all, page by page, before anything else.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    let target = std::env::var("CARGO_CFG_TARGET_OS").unwrap_or_default();
    let linked_by = std::env::var("CARGO_CFG_TARGET_ENV").unwrap_or_default();
    if target == "linux" && linked_by == "gnu" {
        println!("cargo:rustc-link-arg-bins=-no-pie");
    }
}

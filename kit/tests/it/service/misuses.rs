//! What rustc tells about a trait that cannot be a service, and at which token. Every misuse that the macros find
//! themselves has its case in `kit-macros`; here is what it comes to in the end, and what is found by types.
//!
//! rustc is asked directly, with the very library that this program is linked to: cargo would build that and all that
//! it needs a second time.

use std::{env, fs, path::PathBuf, process::Command};

use serde_json::Value;

/// The library beside this program.
fn library() -> PathBuf {
    let program = env::current_exe().unwrap();
    let built = fs::read_dir(program.parent().unwrap()).unwrap();
    let libraries = built.map(|file| file.unwrap().path()).filter(|path| {
        let name = path.file_name().unwrap().to_string_lossy();
        name.starts_with("libkit-") && name.ends_with(".rlib")
    });
    let modified = |path: &PathBuf| fs::metadata(path).unwrap().modified().unwrap();
    libraries.max_by_key(modified).unwrap()
}

/// What rustc tells of `file`: the line, the text that it points at, and the message.
fn told(file: &str) -> Vec<(usize, String, String)> {
    let library = library();
    let out = tempfile::tempdir().unwrap();
    let mut rustc = Command::new("rustc");
    rustc
        .args(["--edition=2024", "--crate-type=lib", "--emit=metadata"])
        .args(["--error-format=json", "--cap-lints=allow"])
        .arg("--out-dir")
        .arg(out.path())
        .arg("-L")
        .arg(library.parent().unwrap())
        .arg(format!("--extern=kit={}", library.display()))
        .arg(file)
        .env("CARGO_PKG_VERSION", "0.0.0");
    let output = rustc.output().unwrap();
    assert!(!output.status.success(), "{file} compiles");
    let source = fs::read_to_string(file).unwrap();
    let mut told = Vec::new();
    for line in String::from_utf8(output.stderr).unwrap().lines() {
        let diagnostic: Value = serde_json::from_str(line).expect(line);
        for mut span in diagnostic["spans"].as_array().into_iter().flatten() {
            if diagnostic["level"] != "error" || span["is_primary"] != true {
                continue;
            }
            // Inside of a macro of others, such as `assert!`.
            while span["file_name"] != file {
                span = &span["expansion"]["span"];
            }
            let number = |name: &str| usize::try_from(span[name].as_u64().unwrap()).unwrap();
            let text = &source[number("byte_start")..number("byte_end")];
            let message = diagnostic["message"].as_str().unwrap();
            told.push((number("line_start"), text.to_owned(), message.to_owned()));
        }
    }
    told
}

/// Each error in `file` is one that its line expects behind `//~`: the text that it points at, in backticks, and how its
/// message begins; and each that is expected is there.
fn check(file: &str) {
    let source = fs::read_to_string(file).unwrap();
    let expected: Vec<_> = source
        .lines()
        .enumerate()
        .flat_map(|(at, line)| {
            let notes = line.split("//~ `").skip(1);
            notes.map(move |note| {
                let (text, message) = note.split_once("` ").expect(line);
                (at + 1, text, message.trim_end())
            })
        })
        .collect();
    let told = told(file);
    let fits = |(line, text, message): &(usize, &str, &str), told: &(usize, String, String)| {
        *line == told.0 && *text == told.1 && told.2.starts_with(message)
    };
    for mistake in &told {
        assert!(
            expected.iter().any(|expected| fits(expected, mistake)),
            "{file}: nobody expects {mistake:?} among {told:#?}"
        );
    }
    for mistake in &expected {
        assert!(
            told.iter().any(|told| fits(mistake, told)),
            "{file}: {mistake:?} is not told: {told:#?}"
        );
    }
}

#[test]
fn what_the_macros_refuse_is_told_at_its_token_and_nothing_beside_it() {
    check("tests/ui/refused.rs");
}

#[test]
fn a_type_that_grpc_cannot_carry_is_told_at_that_type() {
    check("tests/ui/types.rs");
}

#[test]
fn what_is_no_single_text_is_told_at_its_type_where_it_stands_in_a_path() {
    check("tests/ui/texts.rs");
}

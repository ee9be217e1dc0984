//! Links the helper that git starts, and nothing else, statically where the C library allows it.
//!
//! The dynamic loader costs a process that lives for a millisecond half its time. `-C target-feature=+crt-static` would settle
//! it, but only for all binaries of a build at once, and the daemon has to look up host names, which glibc does with shared
//! libraries. rustc names the C library's parts with `-l` in either case, so the helper's link is pointed to a folder in which
//! those names lead to the static archives. A trial program shows whether that works here; if not, the link stays dynamic.
//! musl targets are static already.
#![allow(clippy::print_stdout, reason = "cargo reads what a build script prints")]

use std::env;
use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What rustc links on linux-gnu, and what it is made of when static.
const LIBRARIES: [(&str, &str); 7] = [
    ("c", "libc.a libgcc_eh.a libgcc.a"),
    ("dl", "libdl.a"),
    ("gcc_s", "libgcc_eh.a libgcc.a"),
    ("m", "libm.a"),
    ("pthread", "libpthread.a"),
    ("rt", "librt.a"),
    ("util", "libutil.a"),
];

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-env-changed=RUSTFLAGS");
    let is = |variable: &str, value: &str| env::var(variable).is_ok_and(|found| found == value);
    let static_already = env::var("CARGO_CFG_TARGET_FEATURE").is_ok_and(|features| features.split(',').any(|name| name == "crt-static"));
    if !is("CARGO_CFG_TARGET_OS", "linux") || !is("CARGO_CFG_TARGET_ENV", "gnu") || static_already {
        return;
    }
    match static_link() {
        Ok(arguments) => {
            for argument in arguments {
                println!("cargo:rustc-link-arg-bin=git-credential-scm-agent={argument}");
            }
        }
        Err(error) => println!(
            "cargo:warning=git-credential-scm-agent is linked dynamically and starts slower: {error} \
             (the static C library is in Debian's libc6-dev, Fedora's glibc-static; then run `cargo clean -p scm-agent`)"
        ),
    }
}

/// The linker arguments for a static helper, tried.
fn static_link() -> Result<[String; 2], Box<dyn Error>> {
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("OUT_DIR is not set")?);
    let libraries = out.join("static");
    fs::create_dir_all(&libraries)?;
    for (name, archives) in LIBRARIES {
        // A linker script; the linker looks for this name first, in this folder first.
        fs::write(libraries.join(format!("lib{name}.so")), format!("GROUP ( {archives} )\n"))?;
    }
    let arguments = [format!("-L{}", libraries.display()), "-static-pie".to_owned()];
    try_link(&out, &arguments)?;
    Ok(arguments)
}

/// Links a program the way the helper will be linked, and runs it if this machine can.
fn try_link(out: &Path, arguments: &[String]) -> Result<(), Box<dyn Error>> {
    let (source, program) = (out.join("trial.rs"), out.join("trial"));
    fs::write(&source, "fn main() { std::thread::spawn(|| println!(\"{:?}\", std::env::args())).join().unwrap() }\n")?;
    let target = env::var("TARGET")?;
    let mut rustc = Command::new(env::var_os("RUSTC").ok_or("RUSTC is not set")?);
    rustc.args(["--edition=2024", "--target", &target]).arg(&source).arg("-o").arg(&program);
    if let Ok(linker) = env::var("RUSTC_LINKER") {
        rustc.arg(format!("-Clinker={linker}"));
    }
    if let Ok(flags) = env::var("CARGO_ENCODED_RUSTFLAGS") {
        rustc.args(flags.split('\x1f').filter(|flag| !flag.is_empty()));
    }
    rustc.args(arguments.iter().map(|argument| format!("-Clink-arg={argument}")));
    if !rustc.output()?.status.success() {
        return Err("a static program cannot be linked".into());
    }
    if env::var("HOST")? == target && !Command::new(&program).output()?.status.success() {
        return Err("a static program does not run".into());
    }
    Ok(())
}

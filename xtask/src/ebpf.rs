//! `cargo xtask ebpf`: builds the kernel objects with whichever tool chain is there and commits them to `lb-ebpf/prebuilt`.
//!
//! Users need none of this: `lbctl` embeds the committed object.
#![expect(clippy::disallowed_methods, reason = "reads and writes the object")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail, ensure};
use object::{Object, ObjectSection};

use crate::run::{command, root, run};
use crate::setup;

/// Where the committed objects lie.
const PREBUILT: &str = "lb-ebpf/prebuilt";
/// The objects, by the program of `lb-ebpf` that each is built from.
const OBJECTS: [&str; 3] = ["lb-ebpf", "lb-steer", "lb-lab"];
const TARGET: &str = "bpfel-unknown-none";
/// `target/` of the kernel object: its flags differ from the host's, and neither should rebuild the other's.
const TARGET_FOLDER: &str = "target/bpf";
/// Read-modify-write with a result (`lb-ebpf/src/listen.rs`) needs the third instruction set: Linux 5.12.
const PROCESSOR: &str = "v3";
/// One load for a word of a packet, wherever it lies, instead of one for each byte: what the processors that we run on do
/// (the verifier asks for alignment only on those that cannot). LLVM 22 and later.
const UNALIGNED: &str = "-C target-feature=+allows-misaligned-mem-access";
const LINKER: &str = "bpf-linker";
const STRIPPERS: [&str; 3] = ["llvm-objcopy-22", "llvm-objcopy", "rust-objcopy"];
/// Sections that say how the object was made, not what it does.
const INCIDENTAL: [&str; 4] = [".strtab", ".symtab", ".shstrtab", ""];

/// What compiles for BPF here.
struct ToolChain {
    /// For the reader.
    name: &'static str,
    cargo: PathBuf,
    rustc: Option<PathBuf>,
    /// Leading arguments of cargo.
    arguments: &'static [&'static str],
    linker: PathBuf,
    stripper: PathBuf,
}

/// Builds the objects; with `check`, compares them with the committed ones instead of writing them.
///
/// # Errors
/// When no tool chain is there, the build fails, or (checking) a section differs.
pub fn ebpf(check: bool) -> anyhow::Result<()> {
    let tools = ToolChain::find()?;
    eprintln!("building the kernel objects with {}", tools.name);
    tools.build()?;
    for name in OBJECTS {
        let built = tools.strip(name)?;
        let object = format!("{PREBUILT}/{name}.o");
        if check {
            compare(&object, &built)?;
        } else {
            commit(&object, &built)?;
        }
    }
    Ok(())
}

fn commit(object: &str, built: &Path) -> anyhow::Result<()> {
    let committed = root().join(object);
    std::fs::create_dir_all(committed.parent().expect("the object lies in a folder"))?;
    std::fs::copy(built, &committed).with_context(|| format!("writing {object}"))?;
    println!("{object}: {} bytes", std::fs::metadata(&committed)?.len());
    Ok(())
}

/// Installs Debian's tool chain for BPF and the linker.
///
/// # Errors
/// When apt-get or cargo fail.
pub fn install() -> anyhow::Result<()> {
    if ToolChain::find().is_ok() {
        return Ok(());
    }
    setup::apt_install(&["rustc-web", "cargo-web", "libstd-rust-web-dev-bpf", "llvm-22-dev", "llvm-22"])?;
    if in_path(LINKER).is_some() {
        return Ok(());
    }
    let mut build = command("/usr/bin/cargo");
    build.args([
        "install",
        "--locked",
        LINKER,
        "--version",
        "0.13.0",
        "--no-default-features",
        "--features",
        "llvm-22",
    ]);
    build.env("RUSTC", "/usr/bin/rustc").env("LLVM_PREFIX", "/usr/lib/llvm-22");
    run(build.env("RUSTFLAGS", "-L/usr/lib/llvm-22/lib")).context("building bpf-linker")
}

impl ToolChain {
    fn find() -> anyhow::Result<Self> {
        const HELP: &str =
            "run `cargo xtask setup --ebpf`, or install rustup's nightly with rust-src and bpf-linker";
        let linker = in_path(LINKER).with_context(|| format!("there is no {LINKER} here: {HELP}"))?;
        let stripper = STRIPPERS.iter().find_map(|name| in_path(name));
        let stripper = stripper.with_context(|| format!("there is no llvm-objcopy here: {HELP}"))?;
        if let Some(found) = Self::debian(&linker, &stripper) {
            return Ok(found);
        }
        if let Some(found) = Self::nightly(&linker, &stripper) {
            return Ok(found);
        }
        bail!("no compiler here has a `core` for BPF: {HELP}")
    }

    /// Debian's compiler, which has a ready-made `core` for BPF.
    fn debian(linker: &Path, stripper: &Path) -> Option<Self> {
        let (cargo, rustc) = (PathBuf::from("/usr/bin/cargo"), PathBuf::from("/usr/bin/rustc"));
        let core = Path::new("/usr/lib/rustlib").join(TARGET);
        (cargo.is_file() && rustc.is_file() && core.is_dir()).then(|| Self {
            name: "Debian's rustc-web and libstd-rust-web-dev-bpf",
            cargo,
            rustc: Some(rustc),
            arguments: &[],
            linker: linker.to_owned(),
            stripper: stripper.to_owned(),
        })
    }

    /// rustup's nightly, which builds `core` from its source.
    fn nightly(linker: &Path, stripper: &Path) -> Option<Self> {
        let rustup = in_path("rustup")?;
        let output =
            Command::new(rustup).args(["run", "nightly", "rustc", "--print", "sysroot"]).output().ok()?;
        let sysroot = PathBuf::from(String::from_utf8(output.stdout).ok()?.trim());
        sysroot.join("lib/rustlib/src/rust/library/core").is_dir().then(|| Self {
            name: "rustup's nightly and rust-src",
            cargo: sysroot.join("bin/cargo"),
            rustc: Some(sysroot.join("bin/rustc")),
            arguments: &["-Z", "build-std=core"],
            linker: linker.to_owned(),
            stripper: stripper.to_owned(),
        })
    }

    /// Builds every object.
    fn build(&self) -> anyhow::Result<()> {
        let mut build = command(&self.cargo);
        build.args(["build", "--locked", "--package", "lb-ebpf", "--profile", "bpf", "--target", TARGET]);
        build.args(self.arguments).arg("--target-dir").arg(root().join(TARGET_FOLDER));
        // Unstable flags, and the intrinsics that aya-ebpf and we use, on a compiler that calls itself stable.
        build.env("RUSTC_BOOTSTRAP", "1").env("CARGO_TARGET_BPFEL_UNKNOWN_NONE_LINKER", &self.linker);
        build.env("CARGO_TARGET_BPFEL_UNKNOWN_NONE_RUSTFLAGS", self.flags()?);
        if let Some(rustc) = &self.rustc {
            build.env("RUSTC", rustc);
        }
        // What the cargo that runs us set for its own compiler.
        for inherited in ["RUSTUP_TOOLCHAIN", "RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS", "CARGO_TARGET_DIR"] {
            build.env_remove(inherited);
        }
        run(&mut build).context("building the kernel objects")
    }

    /// Takes what only a debugger reads off an object that was built; returns where it is.
    fn strip(&self, name: &str) -> anyhow::Result<PathBuf> {
        let folder = root().join(TARGET_FOLDER).join(TARGET).join("bpf");
        let stripped = folder.join(name).with_extension("o");
        let mut strip = command(&self.stripper);
        strip.arg("--strip-debug").arg(folder.join(name)).arg(&stripped);
        run(&mut strip).context("taking the debug information off")?;
        Ok(stripped)
    }

    /// The compiler's flags. Debug information is where the linker takes BTF from; paths are written as they are nowhere.
    fn flags(&self) -> anyhow::Result<String> {
        let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
        let home = home.or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cargo")));
        let home = home.context("neither CARGO_HOME nor HOME is set")?;
        Ok(format!(
            "-C linker-flavor=bpf -C link-arg=--btf -C debuginfo=2 -C target-cpu={PROCESSOR} {UNALIGNED} -Z unstable-options \
             --cfg=bpf_target_arch=\"x86_64\" --remap-path-prefix={}=/lbctl --remap-path-prefix={}=/cargo",
            root().display(),
            home.display()
        ))
    }
}

/// Says in which sections the built object differs from the committed one.
fn compare(object: &str, built: &Path) -> anyhow::Result<()> {
    let committed = sections(&root().join(object));
    let (new, old) = (sections(built)?, committed.context("run `cargo xtask ebpf` and commit the object")?);
    let names = new.keys().chain(old.keys().filter(|name| !new.contains_key(*name)));
    let differing: Vec<&str> =
        names.filter(|name| new.get(*name) != old.get(*name)).map(String::as_str).collect();
    ensure!(
        differing.is_empty(),
        "{object} is not what its source builds: {} differ; run `cargo xtask ebpf` and commit the object",
        differing.join(", ")
    );
    println!("{object}: {} sections as built from source", new.len());
    Ok(())
}

fn sections(path: &Path) -> anyhow::Result<BTreeMap<String, Vec<u8>>> {
    let bytes = std::fs::read(path).with_context(|| format!("reading {}", path.display()))?;
    let object = object::File::parse(&*bytes).with_context(|| format!("{} is no object", path.display()))?;
    let mut sections = BTreeMap::new();
    for section in object.sections() {
        let name = section.name()?.to_owned();
        if !INCIDENTAL.contains(&name.as_str()) {
            sections.insert(name, section.data()?.to_vec());
        }
    }
    Ok(sections)
}

fn in_path(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    let cargo_bin = std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cargo/bin"));
    std::env::split_paths(&path)
        .chain(cargo_bin)
        .map(|folder| folder.join(program))
        .find(|file| file.is_file())
}

//! `cargo xtask test --kernel 6.1`: the kernel programs on Debian 12's own kernel, in a virtual machine.
//!
//! The machine has a busybox, the bench program of `lb-tests`, `lbctl` and the objects in its initial memory file system, and
//! nothing else; it runs a script and powers off.
#![expect(clippy::disallowed_methods, reason = "reads and writes files, and waits")]

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};

use crate::report::Report;
use crate::run::{Profile, as_root, build_lbctl, cargo, command, run, succeeds, target};
use crate::setup::apt_install;

/// The kernels that we know how to get: version and the Debian package that depends on the newest of them.
const KERNELS: [(&str, &str); 1] = [("6.1", "linux-image-cloud-amd64")];
/// Boot and tests; they take about a minute.
const DEADLINE: Duration = Duration::from_secs(300);
const MEMORY_MIB: u32 = 1024;
/// The guest's last line, before its exit code.
const EXIT_MARK: &str = "guest exits with";
const EMULATOR: &str = "qemu-system-x86_64";
const BUSYBOX: &str = "busybox";

/// Runs in the guest as its first process.
const SCRIPT: &str = "#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc none /proc
mount -t sysfs none /sys
mount -t devtmpfs none /dev
mount -t bpf none /sys/fs/bpf
mount -t cgroup2 none /sys/fs/cgroup
mount -t tmpfs none /run
mount -t tmpfs none /tmp
ip link set lo up
echo \"guest runs $(uname -r)\"
lb-bench smoke
code=$?
lbctl doctor || code=$?
echo \"guest exits with $code\"
poweroff -f
";

/// The chore.
///
/// # Errors
/// When the machine cannot be made, or a test failed in it.
pub fn chore(kernel: &str) -> anyhow::Result<()> {
    let mut report = Report::default();
    report.step(&format!("programs on kernel {kernel}"), || prepare(kernel).and_then(|guest| guest.run()));
    report.finish()
}

/// As a step of `ci`: where emulator or kernel cannot be installed, that is said and counts as nothing.
pub fn tests(report: &mut Report, kernel: &str) {
    let name = format!("programs on kernel {kernel}");
    match prepare(kernel) {
        Ok(guest) => report.step(&name, || guest.run()),
        Err(error) => report.skip(&name, &format!("{error:#}")),
    }
}

/// What the machine boots.
struct Guest {
    kernel: PathBuf,
}

/// Installs the emulator and unpacks the kernel, as far as they are not there.
fn prepare(version: &str) -> anyhow::Result<Guest> {
    let known = KERNELS.iter().find(|(known, _)| *known == version);
    let (_, package) = known.with_context(|| {
        let versions: Vec<_> = KERNELS.iter().map(|(version, _)| *version).collect();
        format!("kernel {version} is not among those that can be had: {}", versions.join(", "))
    })?;
    ensure!(cfg!(target_arch = "x86_64"), "the virtual machine is an x86-64 one");
    let programs = [(EMULATOR, "qemu-system-x86"), (BUSYBOX, "busybox-static")];
    let missing = programs.iter().filter(|(program, _)| !succeeds(command(program).arg("--help")));
    apt_install(&missing.map(|(_, package)| *package).collect::<Vec<_>>())?;
    let folder = target().join("guest").join(version);
    let kernel = match kernel_image(&folder) {
        Some(kernel) => kernel,
        None => download(package, &folder)?,
    };
    Ok(Guest { kernel })
}

/// Downloads the kernel that `package` depends on and unpacks it; nothing of it is installed.
fn download(package: &str, folder: &Path) -> anyhow::Result<PathBuf> {
    std::fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
    let shown = command("apt-cache").args(["depends", package]).output().context("apt-cache depends")?;
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    let image = shown.lines().find_map(|line| line.trim().strip_prefix("Depends: linux-image-"));
    let image =
        format!("linux-image-{}", image.with_context(|| format!("there is no package {package} here"))?);
    let mut download = command("apt-get");
    if let Err(error) = run(download.args(["download", "-qq", &image]).current_dir(folder)) {
        // The lists of packages may be old.
        eprintln!("{error:#}; once more with new lists");
        run(as_root("apt-get").args(["update", "-qq"])).context("apt-get update")?;
        run(command("apt-get").args(["download", "-qq", &image]).current_dir(folder))?;
    }
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "deb") {
            run(command("dpkg-deb").arg("-x").arg(&path).arg(folder))?;
            std::fs::remove_file(&path)?;
        }
    }
    kernel_image(folder).with_context(|| format!("{image} has no kernel"))
}

fn kernel_image(folder: &Path) -> Option<PathBuf> {
    let entries = std::fs::read_dir(folder.join("boot")).ok()?;
    let mut images = entries.flatten().map(|entry| entry.path());
    images.find(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("vmlinuz-")))
}

impl Guest {
    fn run(&self) -> anyhow::Result<()> {
        let lbctl = build_lbctl(Profile::Debug)?;
        run(&mut cargo(&["build", "-p", "lb-tests", "--bin", "lb-bench"]))?;
        let bench = target().join("debug/lb-bench");
        let archive = target().join("guest/initramfs.cpio");
        std::fs::write(&archive, initramfs(&[bench, lbctl])?)
            .with_context(|| format!("writing {}", archive.display()))?;
        self.boot(&archive)
    }

    /// Boots and waits for the script's end; the console is shown.
    fn boot(&self, archive: &Path) -> anyhow::Result<()> {
        let mut emulator = command(EMULATOR);
        // In software: machines that are virtual themselves offer /dev/kvm and then fail in it.
        emulator.args(["-accel", "tcg", "-cpu", "max", "-m", &MEMORY_MIB.to_string(), "-nodefaults"]);
        emulator.args(["-display", "none", "-serial", "stdio", "-no-reboot", "-kernel"]).arg(&self.kernel);
        emulator.arg("-initrd").arg(archive);
        emulator.args(["-append", "console=ttyS0 quiet panic=-1 net.ifnames=0"]);
        watch(&mut emulator)
    }
}

/// Runs the emulator until the guest says how it ended.
fn watch(emulator: &mut Command) -> anyhow::Result<()> {
    let mut child =
        emulator.stdout(Stdio::piped()).spawn().with_context(|| format!("starting {EMULATOR}"))?;
    let console = child.stdout.take().expect("standard output is piped");
    let (sender, lines) = mpsc::channel();
    std::thread::spawn(move || {
        for line in BufReader::new(console).split(b'\n').map_while(Result::ok) {
            let line = String::from_utf8_lossy(&line).trim_end().to_owned();
            if sender.send(line).is_err() {
                break;
            }
        }
    });
    let begun = Instant::now();
    let mut code = None;
    let outcome = loop {
        match lines.recv_timeout(DEADLINE.saturating_sub(begun.elapsed())) {
            Ok(line) => {
                println!("  {line}");
                code = line.strip_prefix(EXIT_MARK).map(|code| code.trim().to_owned()).or(code);
            }
            Err(mpsc::RecvTimeoutError::Timeout) => break Err(()),
            Err(mpsc::RecvTimeoutError::Disconnected) => break Ok(()),
        }
    };
    if outcome.is_err() {
        child.kill().context("ending the emulator")?;
    }
    child.wait().context("waiting for the emulator")?;
    match code.as_deref() {
        Some("0") => Ok(()),
        Some(code) => bail!("the tests in the guest failed with {code}"),
        None if outcome.is_err() => bail!("the guest did not end within {} s", DEADLINE.as_secs()),
        None => bail!("the guest ended before its tests did"),
    }
}

/// The initial file system: busybox, these programs with the libraries that they need, the objects.
fn initramfs(programs: &[PathBuf]) -> anyhow::Result<Vec<u8>> {
    let mut archive = Archive::default();
    for folder in ["bin", "proc", "sys", "dev", "run", "tmp"] {
        archive.folder(Path::new(folder))?;
    }
    archive.file(Path::new("init"), SCRIPT.as_bytes(), true)?;
    archive.copy(&which(BUSYBOX)?, Path::new("bin/busybox"))?;
    for program in programs {
        let name = program.file_name().context("a program without a name")?;
        let stripped = target().join("guest").join(name);
        run(command("strip").arg("-o").arg(&stripped).arg(program))?;
        archive.copy(&stripped, &Path::new("bin").join(name))?;
        for library in libraries(program)? {
            archive.copy(&library, library.strip_prefix("/")?)?;
        }
    }
    let prebuilt = crate::run::root().join("lb-ebpf/prebuilt");
    for entry in std::fs::read_dir(&prebuilt).with_context(|| format!("reading {}", prebuilt.display()))? {
        // Where the program looks for them: beside the package that it was built from.
        let path = entry?.path();
        archive.copy(&path, path.strip_prefix("/")?)?;
    }
    archive.folder(crate::run::root().join("tests").strip_prefix("/")?)?;
    Ok(archive.finish())
}

/// The shared libraries of a program, the loader included.
fn libraries(program: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let shown = command("ldd").arg(program).output().context("ldd")?;
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    let paths = shown.split_whitespace().filter(|word| word.starts_with('/')).map(PathBuf::from);
    Ok(paths.collect())
}

fn which(program: &str) -> anyhow::Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut files = std::env::split_paths(&path).map(|folder| folder.join(program));
    files.find(|file| file.is_file()).with_context(|| format!("there is no {program} here"))
}

/// A `cpio` archive of the form that the kernel unpacks ("newc", `Documentation/driver-api/early-userspace/buffer-format.rst`).
#[derive(Default)]
struct Archive {
    bytes: Vec<u8>,
    entries: u32,
    names: BTreeSet<PathBuf>,
}

impl Archive {
    fn copy(&mut self, from: &Path, to: &Path) -> anyhow::Result<()> {
        let bytes = std::fs::read(from).with_context(|| format!("reading {}", from.display()))?;
        let is_program = std::fs::metadata(from)?.permissions().mode() & 0o111 != 0;
        self.file(to, &bytes, is_program)
    }

    fn file(&mut self, name: &Path, bytes: &[u8], is_program: bool) -> anyhow::Result<()> {
        if let Some(folder) = name.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            self.folder(folder)?;
        }
        self.entry(name, if is_program { 0o100_755 } else { 0o100_644 }, bytes)
    }

    fn folder(&mut self, name: &Path) -> anyhow::Result<()> {
        if let Some(above) = name.parent().filter(|above| !above.as_os_str().is_empty()) {
            self.folder(above)?;
        }
        self.entry(name, 0o040_755, &[])
    }

    /// Writes an entry, unless there is one of this name.
    fn entry(&mut self, name: &Path, mode: u32, bytes: &[u8]) -> anyhow::Result<()> {
        if !self.names.insert(name.to_owned()) {
            return Ok(());
        }
        self.entries += 1;
        let name = name.to_str().context("a name that is not UTF-8")?;
        let size = u32::try_from(bytes.len()).context("a file of 4 GiB")?;
        let fields = [self.entries, mode, 0, 0, 1, 0, size, 0, 0, 0, 0, u32::try_from(name.len() + 1)?, 0];
        self.bytes.extend(b"070701");
        for field in fields {
            self.bytes.extend(format!("{field:08x}").into_bytes());
        }
        self.bytes.extend(name.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend(bytes);
        self.pad();
        Ok(())
    }

    fn finish(mut self) -> Vec<u8> {
        self.entry(Path::new("TRAILER!!!"), 0, &[]).expect("the name is short");
        self.bytes
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn archive_has_each_folder_once_and_aligned_entries() {
        let mut archive = Archive::default();
        archive.file(Path::new("a/b/one"), b"12345", true).expect("a short name");
        archive.file(Path::new("a/b/two"), b"", false).expect("a short name");
        let bytes = archive.finish();
        let text = String::from_utf8_lossy(&bytes);
        assert_eq!(text.matches("070701").count(), 5, "a, a/b, two files and the end: {text}");
        assert!(bytes.len() % 4 == 0 && text.contains("000081ed") && text.contains("TRAILER!!!"), "{text}");
    }
}

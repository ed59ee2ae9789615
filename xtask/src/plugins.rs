//! `cargo xtask plugins`: the committed recipe components, built from their sources; with `--check`, compared with
//! them.
//!
//! The compilers are Debian stable's (rustc 1.85 with its wasm32 library, lld, clang 19), unpacked into `target/tools`
//! and run through their own loader, so that the bytes are the same on every machine, whatever toolchain it has: no
//! root, no container, no network after the first time. The sources are copied into one folder that is laid out the
//! same everywhere, with paths remapped. Guests depend on nothing but `quorate-guest`, which depends on nothing.
//!
//! Promises: `--check` fails on any difference of a byte, and names it. Absent: reproducible bytes from another
//! toolchain. `--rustup` builds with the developer's own, to try something where Debian's cannot be had, and commits
//! nothing.

use std::{
    collections::BTreeSet,
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail};

use crate::{debian, step};

/// Raised when what is kept there changes, so that an older one is brought anew.
const HOME: &str = "wasm-1";

/// The compilers and the libraries that they load. Debian's dependencies also name gcc, which nothing here runs.
const PACKAGES: [&str; 53] = [
    "cargo",
    "clang-19",
    "libbrotli1",
    "libbsd0",
    "libc6",
    "libclang-common-19-dev",
    "libclang-cpp19",
    "libcom-err2",
    "libcurl4t64",
    "libedit2",
    "libffi8",
    "libgcc-s1",
    "libgit2-1.9",
    "libgmp10",
    "libgnutls30t64",
    "libgssapi-krb5-2",
    "libhogweed6t64",
    "libhttp-parser2.9",
    "libidn2-0",
    "libk5crypto3",
    "libkeyutils1",
    "libkrb5-3",
    "libkrb5support0",
    "libldap2",
    "libllvm19",
    "liblzma5",
    "libmbedcrypto16",
    "libmbedtls21",
    "libmbedx509-7",
    "libmd0",
    "libnettle8t64",
    "libnghttp2-14",
    "libnghttp3-9",
    "libp11-kit0",
    "libpcre2-8-0",
    "libpsl5t64",
    "librtmp1",
    "libsasl2-2",
    "libsqlite3-0",
    "libssh2-1t64",
    "libssl3t64",
    "libstd-rust-1.85",
    "libstd-rust-dev-wasm32",
    "libstdc++6",
    "libtasn1-6",
    "libtinfo6",
    "libunistring5",
    "libxml2",
    "libz3-4",
    "libzstd1",
    "lld-19",
    "rustc",
    "zlib1g",
];

/// Packages whose versions decide the bytes.
const COMPILERS: [&str; 5] = ["rustc_", "libstd-rust-dev-wasm32_", "lld-19_", "clang-19_", "cargo_"];

/// Guests in Rust: package, folder. The component stands in the folder, under the folder's name.
const RUST: [(&str, &str); 9] = [
    ("quorate-recipe-barrier", "plugins/recipes/barrier"),
    ("quorate-recipe-counter", "plugins/recipes/counter"),
    ("quorate-recipe-election", "plugins/recipes/election"),
    ("quorate-recipe-group", "plugins/recipes/group"),
    ("quorate-recipe-lock", "plugins/recipes/lock"),
    ("quorate-recipe-queue", "plugins/recipes/queue"),
    ("quorate-recipe-semaphore", "plugins/recipes/semaphore"),
    ("example-rate-limiter", "examples/rate-limiter"),
    ("quorate-recipe-broken-lock", "plugins/sim/broken-lock"),
];

/// Guests in C: folder; one source, under the folder's name.
const C: [&str; 1] = ["examples/hits-in-c"];

/// What the components are, and what they were made by.
const SUMS: &str = "plugins/recipes/SHA256SUMS";

/// What to do.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Compare with the committed components instead of writing them.
    #[arg(long, conflicts_with = "rustup")]
    check: bool,
    /// Build with rustup's toolchain and clang as they are on this machine. The bytes differ from the committed ones,
    /// so the components stay in the target directory.
    #[arg(long)]
    rustup: bool,
}

/// The command.
pub(crate) fn run(args: &Args) -> Result<()> {
    if args.rustup {
        let made = build(&Toolchain::of_this_machine()?)?;
        for (file, _) in &made {
            println!("{}", output().join(file.rsplit('/').next().unwrap_or(file)).display());
        }
        println!("these are not the committed bytes: only Debian's toolchain gives those");
        return Ok(());
    }
    let toolchain = Toolchain::of_debian()?;
    let made = build(&toolchain)?;
    if args.check { check(&made) } else { write(&made) }
}

/// The step of `cargo xtask verify`. Outside CI a machine without apt is told that it is not checked.
pub(crate) fn verify() -> Result<()> {
    if !step::in_ci() && !home().join("packages.txt").is_file() && !has("apt-get") {
        println!("not checked: Debian's compilers come by apt, which this machine lacks");
        return Ok(());
    }
    run(&Args { check: true, rustup: false })
}

/// Brings the compilers unless they are there.
pub(crate) fn install() -> Result<()> {
    if step::in_ci() || has("apt-get") { Toolchain::of_debian().map(drop) } else { Ok(()) }
}

fn has(tool: &str) -> bool {
    let found = Command::new(tool).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    found.is_ok_and(|status| status.success())
}

/// Files of the repository with the bytes that they should have.
type Made = Vec<(String, Vec<u8>)>;

fn write(made: &Made) -> Result<()> {
    for (file, bytes) in made {
        let path = step::root().join(file);
        if fs::read(&path).is_ok_and(|old| old == *bytes) {
            println!("{file}: as it was");
        } else {
            fs::write(&path, bytes).with_context(|| file.clone())?;
            println!("{file}: written, {} bytes", bytes.len());
        }
    }
    Ok(())
}

fn check(made: &Made) -> Result<()> {
    let mut wrong = 0;
    for (file, bytes) in made {
        match fs::read(step::root().join(file)) {
            Ok(committed) if committed == *bytes => continue,
            Ok(committed) => {
                println!("{file} differs: {} bytes are committed, {} came of the sources", committed.len(), bytes.len())
            }
            Err(_) => println!("{file} is not committed"),
        }
        wrong += 1;
    }
    if wrong == 0 {
        println!("{} components come of their sources, byte for byte", made.len() - 1);
        return Ok(());
    }
    if let (Some((_, now)), Ok(then)) = (made.last(), fs::read(step::root().join(SUMS))) {
        let compilers = |sums: &[u8]| {
            let text = String::from_utf8_lossy(sums).into_owned();
            text.lines().filter(|line| line.starts_with('#')).map(str::to_owned).collect::<Vec<_>>()
        };
        if compilers(now) != compilers(&then) {
            println!("the compilers differ, too; committed by:\n{}", compilers(&then).join("\n"));
            println!("here:\n{}", compilers(now).join("\n"));
        }
    }
    bail!("{wrong} of {} files are not what their sources give; `cargo xtask plugins` writes them anew", made.len())
}

fn home() -> PathBuf {
    step::target().join("tools").join(HOME)
}

/// Where components are put before they are written or compared.
fn output() -> PathBuf {
    step::target().join("plugins").join("components")
}

/// Compilers as programs on a search path.
struct Toolchain {
    path: String,
    /// What decides the bytes, a line each.
    versions: String,
}

impl Toolchain {
    /// rustup's, as it is.
    fn of_this_machine() -> Result<Toolchain> {
        let libdir = Command::new("rustc")
            .args(["--print", "target-libdir", "--target", "wasm32-unknown-unknown"])
            .output()
            .context("cannot start rustc")?;
        let libdir = String::from_utf8_lossy(&libdir.stdout).trim().to_owned();
        if !Path::new(&libdir).is_dir() {
            bail!("the target is missing here: `rustup target add wasm32-unknown-unknown`");
        }
        Ok(Toolchain { path: std::env::var("PATH").unwrap_or_default(), versions: "# of a developer\n".into() })
    }

    /// Debian's, brought unless it is there.
    fn of_debian() -> Result<Toolchain> {
        let (home, root) = (home(), home().join("root"));
        let list = home.join("packages.txt");
        if !list.is_file() {
            bring(&home, &root, &list)?;
        }
        let bin = home.join("bin");
        wrap(&root, &bin)?;
        let mut versions = String::new();
        for line in fs::read_to_string(&list)?.lines() {
            let package = line.split_whitespace().nth(1).unwrap_or_default();
            if COMPILERS.iter().any(|name| package.starts_with(name)) {
                // Without the architecture: that of the compiler does not show in what it makes.
                let package = package.rsplit_once('_').map_or(package, |(package, _)| package);
                writeln!(versions, "# {package}")?;
            }
        }
        Ok(Toolchain { path: format!("{}:/usr/bin:/bin", bin.display()), versions })
    }
}

fn bring(home: &Path, root: &Path, list: &Path) -> Result<()> {
    for tool in ["apt-get", "dpkg-deb"] {
        if !has(tool) {
            bail!(
                "`{tool}` is missing: the committed components are made by Debian's compilers, which apt brings (no root is \
                 needed); `cargo xtask plugins --rustup` builds with your own, for a try"
            );
        }
    }
    println!("Debian's compilers for wasm32 are not here: bringing them into {}", home.display());
    if home.exists() {
        fs::remove_dir_all(home)?;
    }
    fs::create_dir_all(root)?;
    let packages =
        debian::unpack(home, root, &PACKAGES).context("cannot fetch Debian's compilers; apt needs its mirror once")?;
    // Other targets: most of what was unpacked.
    for target in ["wasm32-wasip1", "wasm32-wasip2"] {
        let other = root.join("usr/lib/rustlib").join(target);
        if other.exists() {
            fs::remove_dir_all(other)?;
        }
    }
    fs::write(list, packages)?;
    Ok(())
}

/// Scripts that start Debian's programs with Debian's own loader and libraries, beside whatever this system has.
fn wrap(root: &Path, bin: &Path) -> Result<()> {
    fs::create_dir_all(bin)?;
    let loaders = fs::read_dir(root.join("usr/lib64")).or_else(|_| fs::read_dir(root.join("usr/lib")))?;
    let mut loaders = loaders.filter_map(|entry| Some(entry.ok()?.path()));
    let is_loader =
        |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("ld-linux"));
    let loader = loaders.find(is_loader).context("Debian's loader is not among what was unpacked")?;
    let triple = format!("{}-linux-gnu", std::env::consts::ARCH);
    let usr = root.join("usr");
    let libraries = format!("{}:{}", usr.join("lib").join(triple).display(), usr.join("lib/llvm-19/lib").display());
    let stage = stage();
    let programs = [
        ("cargo", "bin/cargo", String::new()),
        // Given here and not in cargo's flags, which enter the names of symbols.
        (
            "rustc",
            "bin/rustc",
            format!("--sysroot '{}' --remap-path-prefix '{}=/quorate'", usr.display(), stage.display()),
        ),
        ("wasm-ld", "lib/llvm-19/bin/lld", String::new()),
        (
            "clang",
            "lib/llvm-19/bin/clang",
            format!("-resource-dir '{}'", usr.join("lib/llvm-19/lib/clang/19").display()),
        ),
    ];
    for (name, program, arguments) in programs {
        // rustc names the flavour of the linker in its arguments.
        let called = if name == "wasm-ld" { "lld" } else { name };
        let script = format!(
            "#!/bin/sh\nexec '{}' --library-path '{libraries}' --argv0 {called} '{}' {arguments} \"$@\"\n",
            loader.display(),
            usr.join(program).display()
        );
        let path = bin.join(name);
        if fs::read_to_string(&path).is_ok_and(|old| old == script) {
            continue;
        }
        fs::write(&path, script)?;
        let mut executable = Command::new("chmod");
        executable.arg("755").arg(&path);
        step::run(executable)?;
    }
    Ok(())
}

fn stage() -> PathBuf {
    step::target().join("plugins").join("stage")
}

/// The settings of every build of a recipe. The stack is small, so that runaway recursion ends in a trap soon.
const CARGO_CONFIG: &str = r#"[build]
target = "wasm32-unknown-unknown"

[target.wasm32-unknown-unknown]
linker = "wasm-ld"
rustflags = ["-C", "link-arg=-zstack-size=65536"]
"#;

/// The guests as a workspace of their own: the repository's is made for another compiler.
fn workspace() -> String {
    let mut members = String::from("\"plugins/guest\"");
    for (_, folder) in RUST {
        write!(members, ", \"{folder}\"").expect("text grows");
    }
    format!(
        r#"[workspace]
resolver = "2"
members = [{members}]

[workspace.package]
version = "0.1.0"
edition = "2024"
license = "Apache-2.0"
rust-version = "1.85"
repository = ""
publish = false

[workspace.dependencies]
quorate-guest = {{ path = "plugins/guest" }}

[workspace.lints.rust]

[profile.release]
opt-level = "s"
lto = "fat"
codegen-units = 1
panic = "abort"
strip = true
debug = false
"#
    )
}

/// Builds everything; the list of sums comes last.
fn build(toolchain: &Toolchain) -> Result<Made> {
    let (stage, cores) = (stage(), step::target().join("plugins").join("cores"));
    let mut kept = BTreeSet::new();
    let mut folders: Vec<&str> = RUST.iter().map(|(_, folder)| *folder).collect();
    folders.push("plugins/guest");
    for folder in folders {
        copy(folder, &stage, &mut kept)?;
    }
    place(&stage.join("Cargo.toml"), workspace().as_bytes(), &mut kept)?;
    place(&stage.join(".cargo/config.toml"), CARGO_CONFIG.as_bytes(), &mut kept)?;
    sweep(&stage, &kept)?;
    let made = step::target().join("plugins").join("build");
    let run = |program: &str| {
        let mut command = Command::new(program);
        command.current_dir(&stage).env_clear().env("PATH", &toolchain.path);
        // A cargo home of its own: no setting of this machine's owner may reach the bytes.
        command.env("CARGO_HOME", step::target().join("plugins").join("cargo")).env("CARGO_TARGET_DIR", &made);
        command
    };
    let mut cargo = run("cargo");
    if toolchain.versions.contains("developer") {
        cargo = Command::new("cargo");
        cargo.current_dir(&stage).env("CARGO_TARGET_DIR", &made).env("PATH", &toolchain.path);
    }
    cargo.args(["build", "--release", "--offline", "--quiet"]);
    for (package, _) in RUST {
        cargo.args(["--package", package]);
    }
    step::run(cargo).context("the recipes do not build")?;
    if cores.exists() {
        fs::remove_dir_all(&cores)?;
    }
    fs::create_dir_all(&cores)?;
    let short = |folder: &str| folder.rsplit('/').next().unwrap_or(folder).to_owned();
    for (_, folder) in RUST {
        let library = short(folder).replace('-', "_");
        let module = made.join("wasm32-unknown-unknown/release").join(format!("{library}.wasm"));
        fs::copy(&module, cores.join(format!("{}.wasm", short(folder))))
            .with_context(|| module.display().to_string())?;
    }
    for folder in C {
        let (source, object) = (step::root().join(folder).join(format!("{}.c", short(folder))), cores.join("c.o"));
        let mut clang = run("clang");
        clang.args([
            "--target=wasm32-unknown-unknown",
            "-std=c17",
            "-O2",
            "-ffreestanding",
            "-fno-builtin",
            "-mcpu=mvp",
        ]);
        clang.args(["-Wall", "-Wextra", "-Werror", "-c"]).arg(&source).arg("-o").arg(&object);
        step::run(clang)?;
        let mut link = run("wasm-ld");
        link.args(["-flavor", "wasm", "--no-entry", "--strip-all", "-zstack-size=65536"]).arg(&object);
        link.arg("-o").arg(cores.join(format!("{}.wasm", short(folder))));
        step::run(link)?;
        fs::remove_file(object)?;
    }
    encode(&cores, toolchain)
}

/// Modules become components.
fn encode(cores: &Path, toolchain: &Toolchain) -> Result<Made> {
    let out = output();
    if out.exists() {
        fs::remove_dir_all(&out)?;
    }
    let mut encoder = step::cargo_command(&["run", "--locked", "--quiet", "--package", "quorate-recipe-build", "--"]);
    encoder.arg(cores).arg(&out);
    let said = encoder.stderr(Stdio::inherit()).output().context("cannot start cargo")?;
    if !said.status.success() {
        bail!("the modules do not become components");
    }
    let folders = || RUST.iter().map(|(_, folder)| *folder).chain(C);
    let folder_of = |name: &str| folders().find(|folder| folder.ends_with(&format!("/{name}")));
    let mut made = Made::new();
    let mut sums = toolchain.versions.clone();
    for line in String::from_utf8(said.stdout)?.lines() {
        let (sum, file) = line.split_once("  ").context("the encoder told something else than sums")?;
        let name = file.trim_end_matches(".wasm");
        let folder = folder_of(name).with_context(|| format!("no folder is named {name}"))?;
        made.push((format!("{folder}/{file}"), fs::read(out.join(file))?));
        writeln!(sums, "{sum}  {folder}/{file}")?;
    }
    made.push((SUMS.into(), sums.into_bytes()));
    Ok(made)
}

/// Copies a crate's manifest and sources.
fn copy(folder: &str, stage: &Path, kept: &mut BTreeSet<PathBuf>) -> Result<()> {
    let from = step::root().join(folder);
    place(
        &stage.join(folder).join("Cargo.toml"),
        &fs::read(from.join("Cargo.toml")).context(folder.to_owned())?,
        kept,
    )?;
    let mut open = vec![PathBuf::from("src")];
    while let Some(next) = open.pop() {
        for entry in fs::read_dir(from.join(&next)).context(folder.to_owned())? {
            let path = next.join(entry?.file_name());
            if from.join(&path).is_dir() {
                open.push(path);
            } else {
                place(&stage.join(folder).join(&path), &fs::read(from.join(&path))?, kept)?;
            }
        }
    }
    Ok(())
}

/// Writes a file unless it is so already: cargo builds again what is newer.
fn place(path: &Path, bytes: &[u8], kept: &mut BTreeSet<PathBuf>) -> Result<()> {
    kept.insert(path.to_owned());
    if fs::read(path).is_ok_and(|old| old == bytes) {
        return Ok(());
    }
    fs::create_dir_all(path.parent().context("a file has a folder")?)?;
    fs::write(path, bytes).with_context(|| path.display().to_string())
}

/// Removes what an earlier layout left.
fn sweep(folder: &Path, kept: &BTreeSet<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            sweep(&path, kept)?;
        } else if !kept.contains(&path) && path.file_name().is_some_and(|name| name != "Cargo.lock") {
            fs::remove_file(path)?;
        }
    }
    Ok(())
}

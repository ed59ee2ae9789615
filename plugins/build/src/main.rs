//! `quorate-recipe-build FROM TO`: makes components of all core modules in a folder.
//!
//! `cargo xtask plugins` runs it after the compilers; authors have the verb `quorate recipe build`. Every `NAME.wasm`
//! in FROM becomes `NAME.wasm` in TO, and a line with its SHA-256 on standard output. Absent: everything else.

use std::{fs, path::PathBuf, process::ExitCode};

use anyhow::{Context, Result, bail};

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("quorate-recipe-build: {why:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let folders: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    let [from, to] = folders.as_slice() else {
        bail!("two folders are wanted: where modules are, where components go")
    };
    let entries = fs::read_dir(from).with_context(|| format!("cannot read {}", from.display()))?;
    let mut modules = entries.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    modules.retain(|path| path.extension().is_some_and(|extension| extension == "wasm"));
    modules.sort();
    fs::create_dir_all(to)?;
    for module in modules {
        let name = module.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let bytes = fs::read(&module).with_context(|| module.display().to_string())?;
        let component = quorate_recipe_build::component(&bytes).with_context(|| name.clone())?;
        fs::write(to.join(&name), &component)?;
        println!("{}  {name}", quorate_recipe_build::sha256(&component));
    }
    Ok(())
}

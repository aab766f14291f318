//! Northstar 0.9.2's readers and writers as filters: a line of JSON in, a line of JSON out.
//!
//!     packages manifests    "TEXT"                  -> the manifest, as JSON and as YAML
//!     packages messages     "LINE"                  -> the message, as Northstar 0.9.2 writes it
//!     packages load         {"npk", "key"?}         -> the content of the package
//!     packages pack         {"manifest", "root", "out", "mksquashfs", "compression"?, "key"?}
//!     packages unpack       {"npk", "out"}
//!     packages generate-key {"name", "out"}
//!
//! A line out is `{"ok": value}`, or `{"error": text}` for what Northstar 0.9.2 refuses.

use anyhow::{anyhow, bail, Context, Result};
use ed25519_dalek::VerifyingKey;
use northstar_runtime::{
    api::model::Message,
    npk::{
        manifest::Manifest,
        npk::{generate_key, unpack, Npk, NpkBuilder, SquashfsOptions},
    },
};
use serde_json::{json, to_value, Value};
use std::{
    env, fs,
    io::{stdin, stdout, BufRead, BufReader, BufWriter, Write},
    path::Path,
    str::FromStr,
};

fn text<'a>(value: &'a Value, name: &str) -> Result<&'a str> {
    value[name]
        .as_str()
        .ok_or_else(|| anyhow!("{name} is missing in {value}"))
}

fn manifest(input: &Value) -> Result<Value> {
    let manifest = Manifest::from_str(input.as_str().context("not a string")?)?;
    Ok(json!({ "json": to_value(&manifest)?, "yaml": serde_yaml::to_string(&manifest)? }))
}

fn message(input: &Value) -> Result<Value> {
    let message: Message = serde_json::from_str(input.as_str().context("not a string")?)?;
    Ok(to_value(message)?)
}

fn load(input: &Value) -> Result<Value> {
    let key = match input["key"].as_str() {
        Some(path) => {
            let bytes = fs::read(path)?;
            Some(VerifyingKey::from_bytes(bytes.as_slice().try_into()?)?)
        }
        None => None,
    };
    let npk = Npk::<BufReader<fs::File>>::from_path(Path::new(text(input, "npk")?), key.as_ref())?;
    let hashes = npk.hashes().map(|hashes| {
        json!({
            "meta": hashes.meta_hash,
            "manifest": hashes.manifest_hash,
            "verity": hashes.fs_verity_hash,
            "verity_offset": hashes.fs_verity_offset,
        })
    });
    // Northstar 0.9.2 checks the superblock when it mounts; that is part of loading with us.
    let superblock = npk
        .verity_header()
        .map(|header| header.check().map(|()| header.data_blocks));
    Ok(json!({
        "version": to_value(npk.version())?,
        "manifest": to_value(npk.manifest())?,
        "fsimg_offset": npk.fsimg_offset(),
        "fsimg_size": npk.fsimg_size(),
        "hashes": hashes,
        "data_blocks": superblock.transpose()?,
    }))
}

fn pack(input: &Value) -> Result<Value> {
    let mut options = SquashfsOptions::default();
    if let Some(name) = input["compression"].as_str() {
        options.compression = name.parse()?;
    }
    options.mksquashfs = text(input, "mksquashfs")?.into();
    let mut builder = NpkBuilder::default()
        .manifest_path(Path::new(text(input, "manifest")?))
        .root(Path::new(text(input, "root")?), Some(&options));
    if let Some(key) = input["key"].as_str() {
        builder = builder.key(Path::new(key));
    }
    let (path, size) = builder.to_dir(Path::new(text(input, "out")?))?;
    Ok(json!({ "path": path, "size": size }))
}

fn unpacked(input: &Value) -> Result<Value> {
    unpack(
        Path::new(text(input, "npk")?),
        Path::new(text(input, "out")?),
    )?;
    Ok(Value::Null)
}

fn key(input: &Value) -> Result<Value> {
    generate_key(text(input, "name")?, Path::new(text(input, "out")?))?;
    Ok(Value::Null)
}

fn main() -> Result<()> {
    let work = match env::args().nth(1).as_deref() {
        Some("manifests") => manifest,
        Some("messages") => message,
        Some("load") => load,
        Some("pack") => pack,
        Some("unpack") => unpacked,
        Some("generate-key") => key,
        _ => bail!("usage: packages manifests|messages|load|pack|unpack|generate-key"),
    };
    let mut out = BufWriter::new(stdout().lock());
    for line in stdin().lock().lines() {
        let input: Value = serde_json::from_str(&line?)?;
        let output = match work(&input) {
            Ok(value) => json!({ "ok": value }),
            Err(error) => json!({ "error": format!("{error:#}") }),
        };
        writeln!(out, "{output}")?;
    }
    out.flush()?;
    Ok(())
}

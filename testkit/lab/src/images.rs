//! Container images of the product, built from its own Dockerfiles without network, skipped while nothing changed.

use std::fs;
use std::path::{Path, PathBuf};

use sha1::{Digest, Sha1};

use super::{command, layout};
use testkit_base::Error;

/// An image: its name (`localhost/NAME:dev`), its Dockerfile in the repository, the binary it holds.
struct Image {
    name: &'static str,
    dockerfile: &'static str,
    binary: PathBuf,
}

/// Builds what changed; returns the archives of all images.
pub async fn build() -> Result<Vec<PathBuf>, Error> {
    let images = [
        Image {
            name: "xf-pause",
            dockerfile: "testkit/images/pause/Dockerfile",
            binary: layout::tool("pause")?,
        },
        Image {
            name: "xmpp-federation-operator",
            dockerfile: "Dockerfile",
            binary: layout::binary("xmpp-federation-operator")?,
        },
        Image {
            name: "xmpp-federation-edge",
            dockerfile: "edge/Dockerfile",
            binary: layout::binary("xmpp-federation-edge")?,
        },
    ];
    let folder = layout::images_dir();
    fs::create_dir_all(&folder)?;
    // One builder at a time: labs of one checkout share the folder.
    let lock = fs::File::create(folder.join("lock"))?;
    lock.lock()?;
    let mut archives = Vec::new();
    for image in &images {
        archives.push(build_one(&folder, image).await?);
    }
    Ok(archives)
}

async fn build_one(folder: &Path, image: &Image) -> Result<PathBuf, Error> {
    let dockerfile = layout::repository().join(image.dockerfile);
    let archive = folder.join(format!("{}.tar", image.name));
    let stamp = folder.join(format!("{}.sha1", image.name));
    let print = fingerprint(&[&dockerfile, &image.binary])?;
    if archive.is_file() && fs::read_to_string(&stamp).is_ok_and(|stamp| stamp == print) {
        return Ok(archive);
    }
    let context = folder.join(image.name);
    if context.exists() {
        fs::remove_dir_all(&context)?;
    }
    fs::create_dir_all(&context)?;
    let name = image.binary.file_name().ok_or("a binary has a name")?;
    let copy = context.join(name);
    fs::copy(&image.binary, &copy)?;
    // Without its symbols an image is imported several times faster.
    command::run(&["strip".as_ref(), "-s".as_ref(), copy.as_os_str()]).await?;
    let reference = format!("localhost/{}:dev", image.name);
    let buildah = |words: &[&str]| {
        let mut all: Vec<String> = vec!["buildah".to_owned(), "--storage-driver".to_owned(), "vfs".to_owned()];
        all.extend(["--root".to_owned(), folder.join("storage").display().to_string()]);
        all.extend(["--runroot".to_owned(), folder.join("run").display().to_string()]);
        all.extend(words.iter().map(|word| (*word).to_owned()));
        all
    };
    let (file, context) = (dockerfile.display().to_string(), context.display().to_string());
    command::run(&buildah(&[
        "bud",
        "--isolation",
        "chroot",
        "--timestamp",
        "0",
        "--pull-never",
        "-q",
        "-f",
        &file,
        "-t",
        &reference,
        &context,
    ]))
    .await?;
    // An archive is added to when it exists: a new one each time.
    let part = archive.with_extension("part");
    let _ = fs::remove_file(&part);
    command::run(&buildah(&[
        "push",
        "-q",
        &reference,
        &format!("oci-archive:{}:{reference}", part.display()),
    ]))
    .await?;
    command::run(&buildah(&["rmi", "-f", &reference])).await?;
    fs::remove_dir_all(context)?;
    fs::rename(part, &archive)?;
    fs::write(stamp, print)?;
    Ok(archive)
}

fn fingerprint(files: &[&Path]) -> Result<String, Error> {
    let mut hash = Sha1::new();
    for file in files {
        let bytes = fs::read(file).map_err(|error| format!("{}: {error}", file.display()))?;
        hash.update(bytes.len().to_be_bytes());
        hash.update(bytes);
    }
    Ok(format!("{:x}", hash.finalize()))
}

//! Corpora in archives. Python's standard library makes the archives, as another implementation of both formats.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{fs, path::Path, process::Command};

use twdag_stages::data::{Corpus, DataError, Document};

/// Packs what `script` says, with the folder as `folder`.
fn pack(folder: &Path, script: &str) {
    let head = "import io, stat, struct, sys, tarfile, zipfile, gzip, random\nfolder = sys.argv[1] + '/'\n";
    let tar = "def member(tar, name, data=b'', **more):\n    info = tarfile.TarInfo(name)\n    info.size = len(data)\n    \
               [setattr(info, key, value) for key, value in more.items()]\n    tar.addfile(info, io.BytesIO(data))\n";
    let said = Command::new("python3").args(["-c", &format!("{head}{tar}{script}")]).arg(folder).output().unwrap();
    assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
}

fn documents(folder: &Path) -> Result<Vec<Document>, String> {
    let corpus = Corpus::open([folder]).map_err(|error| error.to_string())?;
    assert!(!corpus.has_direct_access());
    let documents: Result<Vec<_>, _> = corpus.documents().collect();
    let documents = documents.map_err(|error| error.to_string().replace(&folder.display().to_string(), "FOLDER"))?;
    // Each is found by its place, alone or on one way through every other, in any order.
    let places = |step: usize| documents.iter().step_by(step).map(|document| document.place).collect::<Vec<_>>();
    let back: Vec<_> = places(1).into_iter().rev().collect();
    for places in [places(1), places(2), places(3), back] {
        for (found, place) in corpus.documents_at(places.clone()).zip(&places) {
            let found = found.unwrap();
            let document = documents.iter().find(|document| document.place == *place).unwrap();
            // What was read to get there counts.
            assert_eq!(Document { bytes: 0, ..found }, Document { bytes: 0, ..document.clone() });
        }
    }
    Ok(documents)
}

fn names(documents: &[Document]) -> Vec<(&str, &str)> {
    documents.iter().map(|document| (document.id.as_str(), document.text.as_str())).collect()
}

const MEMBERS: &str = r#"
long = 'b/' + 'long/' * 40 + 'name.txt'
files = [
    ('./z.txt', b'first in the archive, last by name'), ('a/', None), ('a/lines.jsonl', b'{"text": "one"}\n\n{"text": "two", "id": "named"}\n'),
    ('a/packed.txt.gz', gzip.compress(b'packed twice')), ('README.md', b'no document'), (long, 'ä'.encode() * 700), ('empty.txt', b''),
]
def tar(name, mode, format):
    with tarfile.open(folder + name, mode, format=format) as out:
        for path, data in files:
            if data is None:
                member(out, path, type=tarfile.DIRTYPE)
            else:
                member(out, path, data)
def zip(name, method):
    with zipfile.ZipFile(folder + name, 'w', method) as out:
        for path, data in files:
            out.writestr(path, data or b'')
"#;

#[test]
fn members_come_in_the_order_of_the_archive_whatever_its_form() {
    let long = format!("b/{}name.txt", "long/".repeat(40));
    let umlauts = "ä".repeat(700);
    let forms = [
        ("x.tar", "tar('x.tar', 'w', tarfile.GNU_FORMAT)"),
        ("x.tar.gz", "tar('x.tar.gz', 'w:gz', tarfile.PAX_FORMAT)"),
        ("x.tgz", "tar('x.tgz', 'w:gz', tarfile.PAX_FORMAT)"),
        ("x.zip", "zip('x.zip', zipfile.ZIP_DEFLATED)"),
        ("y.zip", "zip('y.zip', zipfile.ZIP_STORED)"),
    ];
    for (name, call) in forms {
        let folder = tempfile::tempdir().unwrap();
        pack(folder.path(), &format!("{MEMBERS}{call}"));
        if name == "x.tar" {
            // The same archive packed by the library that reads it, as Python's cannot.
            let packed = zstd::encode_all(&*fs::read(folder.path().join(name)).unwrap(), 3).unwrap();
            fs::write(folder.path().join("x.tar.zst"), packed).unwrap();
        }
        let found = documents(folder.path()).unwrap();
        let of = |name: &str| {
            [
                (format!("{name}/z.txt"), "first in the archive, last by name"),
                (format!("{name}/a/lines.jsonl:1"), "one"),
                ("named".to_owned(), "two"),
                (format!("{name}/a/packed.txt.gz"), "packed twice"),
                (format!("{name}/{long}"), umlauts.as_str()),
                (format!("{name}/empty.txt"), ""),
            ]
        };
        let mut expected = of(name).to_vec();
        if name == "x.tar" {
            expected.extend(of("x.tar.zst"));
        }
        let expected: Vec<_> = expected.iter().map(|(id, text)| (id.as_str(), *text)).collect();
        assert_eq!(names(&found), expected, "{name}");
        let size: u64 =
            fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().metadata().unwrap().len()).sum();
        assert!(found.iter().map(|document| document.bytes).sum::<u64>() <= size);
    }
}

/// What is said of these bytes as a file of this name.
fn told(name: &str, bytes: &[u8]) -> Result<usize, String> {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join(name), bytes).unwrap();
    documents(folder.path()).map(|found| found.len())
}

#[test]
fn damage_that_only_the_checksum_of_a_packing_shows_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    // Stored blocks: a byte that is changed in one unpacks to another byte.
    pack(
        folder.path(),
        "with tarfile.open(folder + 'x.tar.gz', 'w:gz', compresslevel=0) as out:\n    member(out, 'a.txt', b'the quick brown fox' * 9)",
    );
    let gzip = fs::read(folder.path().join("x.tar.gz")).unwrap();
    let tar = {
        let mut tar = Vec::new();
        std::io::Read::read_to_end(&mut flate2::read::GzDecoder::new(&*gzip), &mut tar).unwrap();
        tar
    };
    let zstandard = {
        let mut encoder = zstd::Encoder::new(Vec::new(), 3).unwrap();
        encoder.include_checksum(true).unwrap();
        std::io::Write::write_all(&mut encoder, &tar).unwrap();
        encoder.finish().unwrap()
    };
    for (name, whole) in [("x.tar.gz", &gzip), ("x.tgz", &gzip), ("x.tar.zst", &zstandard)] {
        assert_eq!(told(name, whole), Ok(1));
        let with = |at: usize| {
            let mut damaged = whole.clone();
            damaged[at] ^= 1;
            told(name, &damaged).unwrap_err()
        };
        let fox = whole.windows(5).position(|window| window == b"quick").unwrap();
        let checksum = whole.len() - if name == "x.tar.zst" { 4 } else { 8 };
        for said in [with(fox), with(checksum), told(name, &whole[..whole.len() - 1]).unwrap_err()] {
            assert!(said.starts_with(&format!("FOLDER/{name}: no complete tar file (")), "{said}");
        }
    }
}

#[test]
fn zeros_may_fill_up_a_gzip_file_and_nothing_else_may_follow() {
    let folder = tempfile::tempdir().unwrap();
    pack(
        folder.path(),
        "with tarfile.open(folder + 'x.tar.gz', 'w:gz') as out:\n    member(out, 'a.txt', b'text' * 9)\n\
         open(folder + 'x.txt.gz', 'wb').write(gzip.compress(b'text') + gzip.compress(b''))",
    );
    let zeros = vec![0; 10_240];
    for name in ["x.tar.gz", "x.txt.gz"] {
        let packed = fs::read(folder.path().join(name)).unwrap();
        let with = |more: &[&[u8]]| {
            let alone = tempfile::tempdir().unwrap();
            fs::write(alone.path().join(name), [&*packed, &more.concat()].concat()).unwrap();
            Corpus::open([alone.path()]).unwrap().documents().map(|document| document.map(|it| it.text)).collect()
        };
        let whole: Result<Vec<String>, DataError> = with(&[]);
        let whole = whole.unwrap();
        for filling in [&zeros[..1], &zeros] {
            assert_eq!(with(&[filling]).unwrap(), whole, "{name}");
            // As Python's gzip does it: what follows the zeros is another packed text.
            assert_eq!(with(&[filling, &gzip(b"")]).unwrap(), whole, "{name}");
            for garbage in [&b"x"[..], b"\x1f\x8b", &gzip(b"text")[..10]] {
                let said = with(&[filling, garbage]).unwrap_err().to_string();
                assert!(said.contains("no complete ") && said.ends_with("; fetch it again"), "{said}");
                assert!(with(&[garbage, filling]).is_err(), "{name} with {garbage:?}");
            }
        }
    }
}

fn gzip(text: &[u8]) -> Vec<u8> {
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    std::io::Write::write_all(&mut packed, text).unwrap();
    packed.finish().unwrap()
}

#[test]
fn what_is_whole_but_cannot_be_read_is_not_advised_to_be_fetched_again() {
    let folder = tempfile::tempdir().unwrap();
    pack(folder.path(), "with tarfile.open(folder + 'x.tar', 'w') as out:\n    member(out, 'a.txt', b'x')");
    let tar = fs::read(folder.path().join("x.tar")).unwrap();
    insta::assert_snapshot!(told("x.tar", &[&*tar, &*tar].concat()).unwrap_err(), @"FOLDER/x.tar: a tar file that cannot be read: more follows behind its end, as if archives were put one behind the other; pack their files into one, or give each archive a file of its own");
    // A frame of Zstandard with a window of 2 GiB, and a raw block.
    let frame = b"\x28\xb5\x2f\xfd\x00\xa8\x29\x00\x00hello";
    insta::assert_snapshot!(told("x.tar.zst", frame).unwrap_err(), @"FOLDER/x.tar.zst: a tar file that cannot be read: it was packed with a window of more than 128 MiB; pack it without --long");
    insta::assert_snapshot!(refused("with tarfile.open(folder + 'x.tar', 'w', format=tarfile.PAX_FORMAT) as out:\n    member(out, 'holes.txt', b'1\\n0\\n4\\n' + b'\\0' * 506 + b'text', pax_headers={'GNU.sparse.major': '1', 'GNU.sparse.minor': '0', 'GNU.sparse.name': 'holes.txt', 'GNU.sparse.realsize': '4'})"), @"FOLDER/x.tar: the member `holes.txt` is a file with holes, expected files and folders; pack the archive anew");
}

#[test]
fn two_members_of_one_name_are_refused_however_it_is_written() {
    let tar = "with tarfile.open(folder + 'x.tar', 'w') as out:\n    [member(out, name, b'x') for name in ('a.txt', 'b/a.txt', './a.txt')]";
    insta::assert_snapshot!(refused(tar), @"FOLDER/x.tar: two members have the same name, `a.txt`; pack the archive anew");
    let zip = "with zipfile.ZipFile(folder + 'x.zip', 'w') as out:\n    [out.writestr(name, 'x') for name in ('a.txt', 'b/a.txt', './a.txt')]";
    insta::assert_snapshot!(refused(zip), @"FOLDER/x.zip: two members have the same name, `a.txt`; pack the archive anew");
}

#[test]
fn what_macos_packs_about_files_is_passed_over() {
    let folder = tempfile::tempdir().unwrap();
    pack(
        folder.path(),
        "names = ('a.txt', '._a.txt', 'b/._a.txt', '__MACOSX/b.txt', '__MACOSX/._a.txt')\n\
         with zipfile.ZipFile(folder + 'x.zip', 'w') as out:\n    [out.writestr(name, 'x') for name in names]\n\
         with tarfile.open(folder + 'x.tar', 'w') as out:\n    [member(out, name, b'x') for name in names]",
    );
    assert_eq!(names(&documents(folder.path()).unwrap()), [("x.tar/a.txt", "x"), ("x.zip/a.txt", "x")]);
}

/// What is said of an archive that a script packs.
fn refused(script: &str) -> String {
    let folder = tempfile::tempdir().unwrap();
    pack(folder.path(), script);
    documents(folder.path()).unwrap_err()
}

#[test]
fn members_that_lead_elsewhere_or_are_no_files_are_refused_by_name() {
    let tar = |member: &str| refused(&format!("with tarfile.open(folder + 'x.tar', 'w') as out:\n    {member}"));
    insta::assert_snapshot!(tar("member(out, '../escape.txt', b'x')"), @"FOLDER/x.tar: the member `../escape.txt` leads out of the archive; do not trust it");
    insta::assert_snapshot!(tar("member(out, '/etc/passwd.txt', b'x')"), @"FOLDER/x.tar: the member `/etc/passwd.txt` leads out of the archive; do not trust it");
    insta::assert_snapshot!(tar("member(out, 'a/../../b.md', b'x')"), @"FOLDER/x.tar: the member `a/../../b.md` leads out of the archive; do not trust it");
    insta::assert_snapshot!(tar("member(out, 'link.txt', type=tarfile.SYMTYPE, linkname='/etc/passwd')"), @"FOLDER/x.tar: the member `link.txt` is a link, expected files and folders; pack the archive anew");
    insta::assert_snapshot!(tar("member(out, 'hard.txt', type=tarfile.LNKTYPE, linkname='/etc/passwd')"), @"FOLDER/x.tar: the member `hard.txt` is a link, expected files and folders; pack the archive anew");
    insta::assert_snapshot!(tar("member(out, 'null.txt', type=tarfile.CHRTYPE, devmajor=1, devminor=3)"), @"FOLDER/x.tar: the member `null.txt` is a device, expected files and folders; pack the archive anew");
    let sparse = "import os, subprocess\nwith open(folder + 'sparse.txt', 'wb') as out:\n    out.truncate(1 << 20)\n\
                  subprocess.run(['tar', '--format=gnu', '-C', folder, '-Scf', folder + 'x.tar', 'sparse.txt'], check=True)\n\
                  os.remove(folder + 'sparse.txt')";
    insta::assert_snapshot!(refused(sparse), @"FOLDER/x.tar: the member `sparse.txt` is a file with holes, expected files and folders; pack the archive anew");
    insta::assert_snapshot!(tar("member(out, 'new\\nline.txt', b'x')"), @r"FOLDER/x.tar: the member `new\nline.txt` has a name with control characters; do not trust it");
    insta::assert_snapshot!(tar("member(out, 'rows.parquet', b'x')"), @"FOLDER/x.tar/rows.parquet: a Parquet file is not read line by line, so not within an archive; unpack the archive");
    insta::assert_snapshot!(tar("member(out, 'inner.zip', b'x')"), @"FOLDER/x.tar/inner.zip: an archive within an archive; unpack the outer one");
    insta::assert_snapshot!(tar("member(out, 'README.md', b'x')"), @"FOLDER/x.tar: no text found in the archive: expected members that end in `.txt` or `.jsonl` (both also with `.gz` or `.zst`)");
    insta::assert_snapshot!(tar("member(out, 'latin.txt', b'caf\\xe9')"), @"FOLDER/x.tar/latin.txt: no UTF-8 text: byte 3 cannot be read; convert the file to UTF-8");

    let zip = |more: &str| {
        refused(&format!(
            "info = zipfile.ZipInfo('x.txt')\nmode = stat.S_IFREG | 0o644\ndata = b'text ' * 100\nflags = 0\nmethod = 8\n{more}\n\
             info.compress_type = 8\ninfo.external_attr = mode << 16\n\
             with zipfile.ZipFile(folder + 'x.zip', 'w') as out:\n    out.writestr(info, data)\n\
             raw = bytearray(open(folder + 'x.zip', 'rb').read())\nat = raw.rfind(b'PK\\x01\\x02')\n\
             raw[at + 8] |= flags; raw[6] |= flags; raw[at + 10] = raw[8] = method\n\
             open(folder + 'x.zip', 'wb').write(raw)"
        ))
    };
    insta::assert_snapshot!(zip("info.filename = '../escape.txt'"), @"FOLDER/x.zip: the member `../escape.txt` leads out of the archive; do not trust it");
    insta::assert_snapshot!(zip("info.filename = '/etc/passwd.txt'"), @"FOLDER/x.zip: the member `/etc/passwd.txt` leads out of the archive; do not trust it");
    insta::assert_snapshot!(zip("mode = stat.S_IFLNK | 0o777; data = b'/etc/passwd'"), @"FOLDER/x.zip: the member `x.txt` is a link, expected files and folders; pack the archive anew");
    insta::assert_snapshot!(zip("mode = stat.S_IFCHR | 0o644"), @"FOLDER/x.zip: the member `x.txt` is a device, expected files and folders; pack the archive anew");
    insta::assert_snapshot!(zip("flags = 1"), @"FOLDER/x.zip/x.txt: is encrypted; unpack the archive with its password, and pack it without");
    insta::assert_snapshot!(zip("method = 14"), @"FOLDER/x.zip/x.txt: is packed with Lzma, expected Deflate, Zstandard or nothing; pack the archive anew");
    let twice = "import warnings\nwarnings.simplefilter('ignore')\n\
                 with zipfile.ZipFile(folder + 'x.zip', 'w') as out:\n    [out.writestr('x.txt', str(i)) for i in (1, 2)]";
    insta::assert_snapshot!(refused(twice), @"FOLDER/x.zip: two members have the same name; pack the archive anew");
}

#[test]
fn documents_that_unpack_without_end_are_refused_before_they_fill_the_memory() {
    let head = "block = b'0' * (1 << 20)\nwith zipfile.ZipFile(folder + 'x.zip', 'w', zipfile.ZIP_DEFLATED, compresslevel=1) as out:\n";
    let member = |name: &str| {
        refused(&format!(
            "{head}    with out.open('{name}', 'w') as to:\n        [to.write(block) for _ in range(300)]"
        ))
    };
    insta::assert_snapshot!(member("bomb.txt"), @"FOLDER/x.zip/bomb.txt: unpacks to a document of more than 256 MiB, which is taken for damage; unpack and split it if it is real");
    insta::assert_snapshot!(member("bomb.jsonl"), @"FOLDER/x.zip/bomb.jsonl: unpacks to a document of more than 256 MiB, which is taken for damage; unpack and split it if it is real");
    // Headers without end, which name one member.
    let headers = "with gzip.open(folder + 'x.tar.gz', 'wb', compresslevel=1) as out:\n    info = tarfile.TarInfo('x')\n    \
                   info.type = tarfile.GNUTYPE_LONGNAME\n    info.size = 1 << 30\n    out.write(info.tobuf(tarfile.GNU_FORMAT))\n    \
                   [out.write(b'x' * (1 << 20)) for _ in range(64)]";
    insta::assert_snapshot!(refused(headers), @"FOLDER/x.tar.gz: no complete tar file (unexpected EOF during skip); fetch it again");
}

#[test]
fn a_damaged_archive_is_refused_wherever_it_is_cut_or_changed() {
    let folder = tempfile::tempdir().unwrap();
    pack(folder.path(), &format!("{MEMBERS}tar('x.tar', 'w', tarfile.GNU_FORMAT)\nzip('x.zip', zipfile.ZIP_DEFLATED)"));
    for name in ["x.tar", "x.zip"] {
        let whole = fs::read(folder.path().join(name)).unwrap();
        let alone = tempfile::tempdir().unwrap();
        let with = |bytes: &[u8]| {
            fs::write(alone.path().join(name), bytes).unwrap();
            documents(alone.path())
        };
        let right = with(&whole).unwrap();
        // The last member of a tar archive ends long before it does: it is filled up with zeros.
        let end = whole.iter().rposition(|byte| *byte != 0).unwrap();
        for cut in (0..end).step_by(97) {
            assert!(with(&whole[..cut]).is_err(), "{name} cut after {cut} of {} bytes", whole.len());
        }
        for at in (0..end).step_by(13) {
            let mut damaged = whole.clone();
            damaged[at] ^= 0x55;
            // Tar has no checksum of contents. That of zip leaves only names that can become others.
            if let Ok(found) = with(&damaged)
                && name == "x.zip"
            {
                let is_right = |document: &Document| right.iter().any(|right| right.text == document.text);
                assert!(found.iter().all(is_right), "{name} at {at}");
            }
        }
    }
}

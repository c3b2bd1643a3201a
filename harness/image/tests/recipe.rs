//! Recipes: the ones of this repository are valid, and every mistake is answered with its place.

use std::path::Path;

use kgate_image::{ImageError, Recipe};

fn mistake(text: &str) -> String {
    match Recipe::parse(Path::new("images/edge.yaml"), text) {
        Ok(recipe) => panic!("accepted: {recipe:?}"),
        Err(error @ ImageError::Recipe { .. }) => error.to_string(),
        Err(error) => panic!("unexpected: {error:?}"),
    }
}

#[test]
fn the_recipes_of_this_repository_are_valid() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../images");
    let mut names = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "yaml") {
            names.push(Recipe::read(&path).unwrap_or_else(|error| panic!("{error}")).name);
        }
    }
    names.sort();
    assert!(names.iter().any(|name| name == "edge") && names.iter().any(|name| name == "storage"));
}

#[test]
fn a_recipe_has_what_it_says() {
    let text = "\
summary: a test
packages: [bash, libc6=2.36-9+deb12u14]
links: { /usr/bin/awk: mawk }
files:
  /root/run: |
    #!/bin/sh
    true
strip: [/usr/share/**.txt]
";
    let recipe = Recipe::parse(Path::new("some/dir/my-image.yaml"), text).unwrap();
    insta::assert_debug_snapshot!(recipe, @r##"
    Recipe {
        name: "my-image",
        summary: "a test",
        packages: [
            "bash",
            "libc6=2.36-9+deb12u14",
        ],
        links: {
            "/usr/bin/awk": "mawk",
        },
        files: {
            "/root/run": "#!/bin/sh\ntrue\n",
        },
        strip: [
            "/usr/share/**.txt",
        ],
    }
    "##);
}

#[test]
fn mistakes_have_a_place_and_a_hint() {
    const START: &str = "summary: s\npackages: [bash]\n";
    let table = [
        String::new(),
        "packages: [bash]\n".to_owned(),
        "summary: s\n".to_owned(),
        "- summary\n".to_owned(),
        "summary: [a\n".to_owned(),
        "summary: ''\npackages: [bash]\n".to_owned(),
        "summary: |\n  a\n  b\npackages: [bash]\n".to_owned(),
        "summary: s\npackage: [bash]\n".to_owned(),
        "summary: s\ncolour: red\n".to_owned(),
        "summary: s\npackages: bash\n".to_owned(),
        "summary: s\npackages: []\n".to_owned(),
        "summary: s\npackages:\n  - bash\n  - Bash\n".to_owned(),
        "summary: s\npackages:\n  - bash\n  - --yes\n".to_owned(),
        "summary: s\npackages:\n  - bash\n  - \"a\\nb\"\n".to_owned(),
        "summary: s\npackages:\n  - bash-\n".to_owned(),
        "summary: s\npackages:\n  - bash=\n".to_owned(),
        "summary: s\npackages:\n  - bash curl\n".to_owned(),
        "summary: s\npackages:\n  - bash\n  - curl\n  - bash\n".to_owned(),
        "summary: s\npackages:\n  - { name: bash }\n".to_owned(),
        format!("{START}summary: t\n"),
        format!("{START}links: [awk]\n"),
        format!("{START}links: {{ usr/bin/awk: mawk }}\n"),
        format!("{START}links:\n  /usr/bin/../awk: mawk\n"),
        format!("{START}links:\n  /a: b\n  /a: c\n"),
        format!("{START}links: {{ /a: '' }}\n"),
        format!("{START}files:\n  /etc/x:\n    mode: 7\n"),
        format!("{START}files:\n  /etc/: text\n"),
        format!("{START}files:\n  /etc/x: [1]\n"),
        format!("{START}strip: /usr\n"),
        format!("{START}strip:\n  - usr/share\n"),
        format!("{START}strip:\n  - 7\n"),
        format!("{START}summary\n"),
        format!("{START}files:\n\t/a: b\n"),
    ];
    let answers: Vec<String> = table.iter().map(|text| mistake(text)).collect();
    insta::assert_snapshot!(answers.join("\n"));
}

#[test]
fn a_recipe_names_an_image() {
    let text = "summary: s\npackages: [bash]\n";
    for name in ["base.yaml", "Edge.yaml", "my image.yaml", "a_b.yaml", ""] {
        let error = Recipe::parse(Path::new(name), text).unwrap_err().to_string();
        assert!(error.contains("cannot name an image"), "{error}");
    }
    let large = format!("summary: s\npackages: [bash]\n# {}\n", "x".repeat(1 << 20));
    let error = Recipe::parse(Path::new("edge.yaml"), &large).unwrap_err().to_string();
    assert_eq!(error, "edge.yaml:1:1: larger than 1 MiB");
    let error = Recipe::read(Path::new("/nonexistent/edge.yaml")).unwrap_err().to_string();
    assert_eq!(error, "cannot read /nonexistent/edge.yaml");
}

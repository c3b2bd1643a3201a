//! The texts of the project "linux_kernel_cves", which listed the CVEs that each release of a branch
//! fixed until the kernel became its own CNA in 2024.

use crate::version::Version;

/// How many CVEs each section of a `X.Y_security.txt` names: the releases in their order there.
///
/// ```text
/// CVEs fixed in 5.15.1:
///   CVE-2021-42739: cb667140875a3b1db92e4c50b4617a7cbf84659b media: firewire: …
/// ```
#[must_use]
pub fn sections(text: &str) -> Vec<(Version, usize)> {
    let mut sections: Vec<(Version, usize)> = Vec::new();
    let mut open = false;
    for line in text.lines() {
        let heading = line.strip_prefix("CVEs fixed in ").and_then(|rest| rest.strip_suffix(':'));
        if let Some(version) = heading.and_then(|text| text.parse().ok()) {
            sections.push((version, 0));
            open = true;
        } else if !line.starts_with([' ', '\t']) {
            open &= line.is_empty();
        } else if let Some((_, count)) = sections.last_mut()
            && open
            && line.trim_start().starts_with("CVE-")
        {
            *count += 1;
        }
    }
    sections
}

#[cfg(test)]
mod tests {
    use super::sections;

    #[test]
    fn only_what_a_release_fixed_counts() {
        let text = "\nCVEs fixed in 5.15:\n  CVE-2021-1: a b\n\nCVEs fixed in 5.15.2:\n  CVE-2021-2: c d\n  \
                    CVE-2021-3: e f\n  note\n\nCVEs fixed in nothing:\n  CVE-2021-4: g\n\nOutstanding CVEs:\n  \
                    CVE-2005-3660: (unk)\n";
        let told: Vec<String> =
            sections(text).iter().map(|(version, count)| format!("{version} {count}")).collect();
        assert_eq!(told, ["5.15 1", "5.15.2 2"]);
    }
}

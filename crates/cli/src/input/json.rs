//! JSON checks that serde_json leaves to its caller.

/// Deeper values are rejected. SQLite's own JSON functions stop at 1,000, many other readers at
/// 128.
pub(crate) const DEPTH_MAX: usize = 128;

/// Whether arrays and objects are nested deeper than [`DEPTH_MAX`]. Takes valid JSON; other text
/// gets some answer.
pub(crate) fn is_too_deep(text: &str) -> bool {
    let bytes = text.as_bytes();
    // Counting is quick, and hardly any line has so many brackets.
    let opening = bytes.iter().filter(|byte| matches!(byte, b'[' | b'{')).count();
    opening > DEPTH_MAX && depth(bytes) > DEPTH_MAX
}

fn depth(bytes: &[u8]) -> usize {
    let (mut depth, mut most) = (0_usize, 0);
    let (mut in_string, mut escaped) = (false, false);
    for byte in bytes {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            _ if in_string => {}
            b'[' | b'{' => {
                depth += 1;
                most = most.max(depth);
            }
            b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    most
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn depth_counts_brackets_outside_strings() {
        let nest = |n: usize| format!("{}{}", "[".repeat(n), "]".repeat(n));
        assert!(!is_too_deep(&nest(DEPTH_MAX)));
        assert!(is_too_deep(&nest(DEPTH_MAX + 1)));
        assert!(!is_too_deep(&format!("[\"\\\"{}\"]", "[".repeat(500))));
        assert!(!is_too_deep(&format!("[{}1]", "[],".repeat(500))));
    }
}

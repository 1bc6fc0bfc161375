/// Sizes in Borg's words.
public enum FileSize {
  /// Bytes in decimal units with two digits behind the point: `512 B`, `1.00 kB`, `-70.96 GB`.
  ///
  /// Source: borg 1.4.5 `src/borg/helpers/parseformat.py`, `format_file_size`.
  public static func text(_ bytes: Int) -> String {
    let sign = bytes < 0 ? "-" : ""
    guard bytes.magnitude >= 1000 else { return "\(bytes) B" }
    let units = ["kB", "MB", "GB", "TB", "PB", "EB"]
    var (value, unit) = (Double(bytes.magnitude) / 1000, 0)
    // Rounded first: 999,995 bytes are 1.00 MB.
    while (value * 100).rounded(.toNearestOrEven) >= 100_000, unit < units.count - 1 {
      (value, unit) = (value / 1000, unit + 1)
    }
    let hundredths = Int((value * 100).rounded(.toNearestOrEven))
    let fraction = hundredths % 100
    return "\(sign)\(hundredths / 100).\(fraction < 10 ? "0" : "")\(fraction) \(units[unit])"
  }
}

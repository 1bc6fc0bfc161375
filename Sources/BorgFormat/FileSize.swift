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
    while rounded(value, times: 100) >= 100_000, unit < units.count - 1 {
      (value, unit) = (value / 1000, unit + 1)
    }
    let hundredths = rounded(value, times: 100)
    let fraction = hundredths % 100
    return "\(sign)\(hundredths / 100).\(fraction < 10 ? "0" : "")\(fraction) \(units[unit])"
  }

  /// A number that is not negative times a power of ten, rounded as C's and Python's formats round: by the exact value of
  /// the binary number, so that 40.135, which is a little less, becomes 40.13.
  public static func rounded(_ value: Double, times factor: Double) -> Int {
    let below = (value * factor).rounded(.down)
    // Exact to the last bit, where the product itself is not.
    let rest = (-(below + 0.5)).addingProduct(value, factor)
    if rest == 0 { return Int(below) % 2 == 0 ? Int(below) : Int(below) + 1 }
    return rest > 0 ? Int(below) + 1 : Int(below)
  }
}

import BorgFormat
import Storage

/// A directory's entries as clients read them: a JSON array.
///
/// Source: borgstore 0.7.0 `server/rest.py`, `do_GET`; `mtime` since 0.6.1.
enum Listing {
  static func json(_ entries: [StoreEntry]) -> [UInt8] {
    var text: [UInt8] = []
    // An honest entry: a hash, two times, and what is around them.
    text.reserveCapacity(2 + entries.count * 192)
    text.append(UInt8(ascii: "["))
    for (index, entry) in entries.enumerated() {
      if index > 0 { text += ",\n".utf8 }
      text += "{\"name\": ".utf8
      JSON.append(quoted: entry.name, to: &text)
      text += ", \"size\": \(entry.size), \"directory\": \(entry.isDirectory), \"atime\": ".utf8
      text += seconds(entry.accessed).utf8
      text += ", \"mtime\": ".utf8
      text += seconds(entry.modified).utf8
      text.append(UInt8(ascii: "}"))
    }
    text.append(UInt8(ascii: "]"))
    return text
  }

  /// Nanoseconds as seconds, with all their digits.
  static func seconds(_ nanoseconds: Int64) -> String {
    let (whole, rest) = nanoseconds.magnitude.quotientAndRemainder(dividingBy: 1_000_000_000)
    let digits = String(rest)
    let sign = nanoseconds < 0 ? "-" : ""
    return "\(sign)\(whole).\(String(repeating: "0", count: 9 - digits.utf8.count))\(digits)"
  }
}

/// Foreign bytes as one short line that is safe on a terminal and in a log.
///
/// At most `limit` bytes are shown, then `...`. Whatever is not a visible character (controls, line and
/// paragraph separators, bidirectional and other format marks, private and unassigned code points) becomes
/// `\u{HEX}`; bytes that are no UTF-8 become U+FFFD.
func printable(_ bytes: some Collection<UInt8>, limit: Int = 60) -> String {
  var line = ""
  for scalar in String(decoding: bytes.prefix(limit), as: UTF8.self).unicodeScalars {
    switch scalar.properties.generalCategory {
    case .control, .format, .surrogate, .privateUse, .unassigned, .lineSeparator, .paragraphSeparator:
      line += "\\u{\(String(scalar.value, radix: 16))}"
    default:
      line.unicodeScalars.append(scalar)
    }
  }
  return bytes.count > limit ? line + "..." : line
}

/// `printable` between single quotes.
func quoted(_ bytes: some Collection<UInt8>) -> String {
  "'\(printable(bytes))'"
}

/// Whether every character is one that `printable` would show as it is, and all of it is UTF-8.
func isPrintable(_ bytes: [UInt8]) -> Bool {
  String(validating: bytes, as: UTF8.self) != nil
    && printable(bytes, limit: .max).utf8.elementsEqual(bytes)
}

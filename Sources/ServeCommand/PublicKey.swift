/// A user's public key in OpenSSH's form of one line: type, base64, comment.
///
/// Whoever sends in a key may be hostile: holding one of these proves that it is one line which sshd takes for
/// a key and for nothing else. Source: OpenSSH 9.2 `sshkey.c`, `PROTOCOL.u2f`; RFC 4253 section 6.6, RFC 5656
/// section 3.1, RFC 8709 section 4.
struct PublicKey: Hashable, Sendable {
  /// Bytes of the largest file that is read; an RSA key of 16,384 bits takes some 2,800.
  static let sizeLimit = 16 * 1024

  let type: PublicKeyType
  /// The base64 text, as it was.
  let encoded: [UInt8]
  /// Printable UTF-8 without white space at its ends; may be empty.
  let comment: [UInt8]

  /// Reads the text of a `.pub` file: one line, its end optional.
  ///
  /// Refused, each with its reason: private keys, other forms (RFC 4716, PEM), several lines, options or
  /// anything else before the type, certificates, DSA and unknown types, base64 that is not canonical, a key
  /// that does not parse to its last byte as what its type says, RSA below 2048 bits, a comment with
  /// anything in it that is not printable. Whether a point lies on its curve is left to sshd.
  init(parsing text: [UInt8]) throws(RefusedKey) {
    try Self.requireOpenSSHForm(text)
    let line = try Self.onlyLine(of: text)
    let isSpace = { (byte: UInt8) in byte == 0x20 || byte == 0x09 }
    guard let first = line.first, !isSpace(first) else {
      throw RefusedKey("the line begins with white space instead of a key type")
    }
    let words = line.split(maxSplits: 2, whereSeparator: isSpace)
    type = try PublicKeyType(word: words[0])
    guard words.count > 1 else { throw RefusedKey("nothing follows the key type") }
    encoded = Array(words[1])
    guard let blob = Base64.decoded(encoded) else {
      throw RefusedKey("what follows the key type is not base64")
    }
    try type.check(blob)
    let rest = words.count > 2 ? words[2] : []
    let start = rest.firstIndex { !isSpace($0) } ?? rest.endIndex
    let end = rest.lastIndex { !isSpace($0) }.map { $0 + 1 } ?? start
    comment = Array(rest[start..<end])
    guard isPrintable(comment) else {
      throw RefusedKey("the comment holds characters that are not printable")
    }
  }

  /// Type, base64 and comment with one space between them; no line end.
  var line: [UInt8] {
    let key = Array("\(type.rawValue) ".utf8) + encoded
    return comment.isEmpty ? key : key + [0x20] + comment
  }

  private static func requireOpenSSHForm(_ text: [UInt8]) throws(RefusedKey) {
    // Before the size: whoever gives the wrong file has to be told so, whatever its length.
    let beginsPrivate = ["PuTTY-User-Key-File", "SSH PRIVATE KEY FILE FORMAT"]
    if contains(text, "PRIVATE KEY-----") || beginsPrivate.contains(where: { text.starts(with: $0.utf8) }) {
      throw RefusedKey(
        "this is a private key, which nobody but its owner should hold; give the public one, the file NAME.pub"
      )
    }
    if text.starts(with: "----".utf8) {
      throw RefusedKey("not in OpenSSH's form of one line; ssh-keygen -i converts it")
    }
    guard text.count <= sizeLimit else { throw RefusedKey("longer than \(sizeLimit) bytes") }
  }

  private static func onlyLine(of text: [UInt8]) throws(RefusedKey) -> [UInt8] {
    var line = text[...]
    if line.last == 0x0a { line.removeLast() }
    // Windows ends lines with both.
    if line.last == 0x0d { line.removeLast() }
    guard !line.isEmpty else { throw RefusedKey("there is no key in it") }
    guard !line.contains(0x0a), !line.contains(0x0d) else { throw RefusedKey("more than one line") }
    return Array(line)
  }

  private static func contains(_ text: [UInt8], _ part: String) -> Bool {
    let part = Array(part.utf8)
    guard text.count >= part.count else { return false }
    return (0...text.count - part.count).contains { text[$0..<$0 + part.count].elementsEqual(part) }
  }
}

/// Why a public key, or the line that should be made for it, is refused: a short phrase, safe to print.
public struct RefusedKey: Error, Hashable, Sendable {
  /// One line without an end.
  public let reason: String

  init(_ reason: String) {
    self.reason = reason
  }
}

/// Base64 of RFC 4648, section 4, in its one canonical spelling.
enum Base64 {
  /// The bytes; nil for anything but whole groups of four letters with correct padding and no stray bits.
  static func decoded(_ text: [UInt8]) -> [UInt8]? {
    let padding = text.reversed().prefix { $0 == UInt8(ascii: "=") }.count
    guard !text.isEmpty, text.count.isMultiple(of: 4), padding <= 2 else { return nil }
    var bytes: [UInt8] = []
    bytes.reserveCapacity(text.count / 4 * 3)
    var bits: UInt32 = 0
    var count = 0
    for letter in text.dropLast(padding) {
      guard let value = value(of: letter) else { return nil }
      bits = (bits << 6 | UInt32(value)) & 0xffff
      count += 6
      if count >= 8 {
        count -= 8
        bytes.append(UInt8(truncatingIfNeeded: bits >> UInt32(count)))
      }
    }
    return bits & (1 << UInt32(count) - 1) == 0 ? bytes : nil
  }

  private static func value(of letter: UInt8) -> UInt8? {
    switch letter {
    case UInt8(ascii: "A")...UInt8(ascii: "Z"): letter - UInt8(ascii: "A")
    case UInt8(ascii: "a")...UInt8(ascii: "z"): letter - UInt8(ascii: "a") + 26
    case UInt8(ascii: "0")...UInt8(ascii: "9"): letter - UInt8(ascii: "0") + 52
    case UInt8(ascii: "+"): 62
    case UInt8(ascii: "/"): 63
    default: nil
    }
  }
}

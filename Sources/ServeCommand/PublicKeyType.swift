/// The kinds of keys that a line is made for; raw values are their names, on the line and in the key.
enum PublicKeyType: String, CaseIterable, Sendable {
  case ed25519 = "ssh-ed25519"
  case securityKeyEd25519 = "sk-ssh-ed25519@openssh.com"
  case ecdsa256 = "ecdsa-sha2-nistp256"
  case ecdsa384 = "ecdsa-sha2-nistp384"
  case ecdsa521 = "ecdsa-sha2-nistp521"
  case securityKeyECDSA = "sk-ecdsa-sha2-nistp256@openssh.com"
  case rsa = "ssh-rsa"

  /// Bits of the modulus of an RSA key: below, today's sshd may refuse it; above, OpenSSH reads none.
  static let rsaBits = 2048...16384

  /// The first word of a line; throws what is wrong with any other.
  init(word: some Collection<UInt8>) throws(RefusedKey) {
    if let known = Self.allCases.first(where: { word.elementsEqual($0.rawValue.utf8) }) {
      self = known
      return
    }
    let text = String(decoding: word, as: UTF8.self)
    if text.hasSuffix("-cert-v01@openssh.com") {
      throw RefusedKey("this is a certificate; authorized_keys takes the key of the authority that signed it")
    }
    if text == "ssh-dss" { throw RefusedKey("DSA keys are too weak, and sshd no longer takes them") }
    let names = Self.allCases.map(\.rawValue).joined(separator: ", ")
    // A sender who could put options before the key would choose what the key may do.
    throw RefusedKey(
      "begins with \(quoted(word)) instead of a key type; options are not taken over (\(names))")
  }

  /// Checks that a decoded key is one of this type, to its last byte.
  func check(_ blob: [UInt8]) throws(RefusedKey) {
    var reader = WireReader(bytes: blob[...])
    guard let name = reader.string(), name.elementsEqual(rawValue.utf8) else {
      throw RefusedKey("the base64 does not begin with the type \(rawValue)")
    }
    let isWhole =
      switch self {
      case .ed25519: reader.skipString(count: 32)
      case .securityKeyEd25519: reader.skipString(count: 32) && reader.skipApplication()
      case .ecdsa256: reader.skipPoint(on: "nistp256", fieldBytes: 32)
      case .ecdsa384: reader.skipPoint(on: "nistp384", fieldBytes: 48)
      case .ecdsa521: reader.skipPoint(on: "nistp521", fieldBytes: 66)
      case .securityKeyECDSA: reader.skipPoint(on: "nistp256", fieldBytes: 32) && reader.skipApplication()
      case .rsa: try Self.skipRSA(&reader)
      }
    guard isWhole, reader.isAtEnd else { throw RefusedKey("the base64 is not a whole \(rawValue) key") }
  }

  private static func skipRSA(_ reader: inout WireReader) throws(RefusedKey) -> Bool {
    guard let exponent = reader.oddNumber(), let modulus = reader.oddNumber() else { return false }
    guard exponent > 1 else { throw RefusedKey("the RSA key's exponent is 1") }
    guard rsaBits.contains(modulus) else {
      throw RefusedKey(
        "an RSA key of \(modulus) bits; from \(rsaBits.lowerBound) to \(rsaBits.upperBound) are taken")
    }
    return exponent <= modulus
  }
}

/// Reads the data types of RFC 4251, section 5; nothing is consumed by a read that fails.
private struct WireReader {
  var bytes: ArraySlice<UInt8>

  var isAtEnd: Bool { bytes.isEmpty }

  /// Four bytes of length, most significant first, and as many bytes.
  mutating func string() -> ArraySlice<UInt8>? {
    guard bytes.count >= 4 else { return nil }
    let length = bytes.prefix(4).reduce(0) { $0 << 8 | Int($1) }
    let body = bytes.dropFirst(4)
    guard length <= body.count else { return nil }
    bytes = body.dropFirst(length)
    return body.prefix(length)
  }

  mutating func skipString(count: Int) -> Bool {
    string()?.count == count
  }

  /// The name of the curve, and an uncompressed point, the only kind that OpenSSH reads.
  mutating func skipPoint(on curve: String, fieldBytes: Int) -> Bool {
    guard let name = string(), name.elementsEqual(curve.utf8), let point = string() else { return false }
    return point.count == 1 + 2 * fieldBytes && point.first == 4
  }

  /// The application that a security key was made for, such as `ssh:`.
  mutating func skipApplication() -> Bool {
    guard let application = string() else { return false }
    return !application.isEmpty && !application.contains(0)
  }

  /// The bits of an `mpint` that is positive, odd, and has no leading zero that its sign does not need.
  mutating func oddNumber() -> Int? {
    guard let body = string(), let first = body.first, let last = body.last else { return nil }
    let digits = first == 0 ? body.dropFirst() : body
    guard let top = digits.first, top != 0, first != 0 || top >= 0x80, first < 0x80, last & 1 == 1 else {
      return nil
    }
    return digits.count * 8 - top.leadingZeroBitCount
  }
}

/// The hashes by which Borg names what it stores: SHA-256 until 2.0.0b24, BLAKE3 since.
public enum HashAlgorithm: String, CaseIterable, Sendable {
  case sha256
  /// Plain mode, without a key, cut to 32 bytes.
  case blake3

  /// The algorithm of a name on the wire; ASCII letters may be of either case, as Python's hashlib has them.
  ///
  /// Other spellings that OpenSSL takes (`SHA2-256`) are unknown: no client uses them.
  public init?(name: some StringProtocol) {
    let match = Self.allCases.first { algorithm in
      algorithm.rawValue.utf8.elementsEqual(name.utf8, by: { $0 == Self.lowerCase($1) })
    }
    guard let match else { return nil }
    self = match
  }

  private static func lowerCase(_ character: UInt8) -> UInt8 {
    (0x41...0x5A).contains(character) ? character | 0x20 : character
  }
}

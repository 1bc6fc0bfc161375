import ContentHash
import Testing

struct ContentDigestTests {
  static let digits = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"

  @Test func `the digits of a digest are read and written`() throws {
    let digest = try #require(ContentDigest(hex: Self.digits))
    #expect(digest.hex == Self.digits)
    let fromBytes = ContentDigest(hex: Array(Self.digits.utf8).span)
    #expect(fromBytes == digest)
    #expect(digest == ContentHasher.digest(of: [UInt8]().span, by: .sha256))
  }

  static let wrong: [String] = {
    let rest = digits.dropFirst()
    let shorter = rest.dropFirst()
    return [
      "", "\(rest)", "\(digits)0", "\(digits)00", digits.uppercased(), "E\(rest)", "g\(rest)", " \(rest)",
      "\(rest)\n",
      "0x\(shorter)", "é\(shorter)",
    ]
  }()

  @Test(arguments: wrong)
  func `anything but 64 lower-case digits is no digest`(text: String) {
    #expect(ContentDigest(hex: text) == nil)
    let fromBytes = ContentDigest(hex: Array(text.utf8).span)
    #expect(fromBytes == nil)
  }

  @Test(arguments: [
    ("sha256", HashAlgorithm.sha256), ("SHA256", .sha256), ("Sha256", .sha256), ("blake3", .blake3),
    ("BLAKE3", .blake3), ("bLaKe3", .blake3),
  ])
  func `an algorithm is found by its name in either case`(name: String, algorithm: HashAlgorithm) {
    #expect(HashAlgorithm(name: name) == algorithm)
    #expect(HashAlgorithm(name: Substring(name)) == algorithm)
  }

  // Among them the long s and the Kelvin sign, which Unicode takes for s and k, and a control character that differs from
  // 2 in the bit that tells the cases of letters apart.
  @Test(arguments: [
    "", "sha", "sha25", "sha2560", "sha512", "sha-256", "SHA2-256", " sha256", "sha256 ", "sha256\0",
    "blake2b", "md5",
    "\u{17F}ha256", "bla\u{212A}e3", "sha\u{12}56", "sha256\u{301}",
  ])
  func `any other name is unknown`(name: String) {
    #expect(HashAlgorithm(name: name) == nil)
  }
}

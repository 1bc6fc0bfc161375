import TestKit
import Testing

@testable import ServeCommand

private let key = "ssh-ed25519 \(KeyFixtures.ed25519)"

private func refusal(_ text: String) -> String? { refusal(Array(text.utf8)) }

private func refusal(_ text: [UInt8]) -> String? {
  do throws(RefusedKey) {
    _ = try PublicKey(parsing: text)
    return nil
  } catch {
    return error.reason
  }
}

/// A length as SSH writes it, and the bytes.
private func string(_ bytes: [UInt8]) -> [UInt8] {
  (0..<4).reversed().map { UInt8(truncatingIfNeeded: bytes.count >> ($0 * 8)) } + bytes
}

private func string(_ text: String) -> [UInt8] { string(Array(text.utf8)) }

@Suite struct `A public key` {
  @Test(arguments: KeyFixtures.good.indices)
  func `of each kind that sshd takes is kept as it is`(index: Int) throws {
    let (type, base64) = KeyFixtures.good[index]
    for (ending, comment) in [("", ""), (" alice@host", "alice@host"), ("\t two words  ", "two words")] {
      for end in ["", "\n", "\r\n"] {
        let key = try PublicKey(parsing: Array("\(type) \(base64)\(ending)\(end)".utf8))
        #expect(key.type.rawValue == type)
        let line = comment.isEmpty ? "\(type) \(base64)" : "\(type) \(base64) \(comment)"
        #expect(String(decoding: key.line, as: UTF8.self) == line)
      }
    }
  }

  @Test(arguments: KeyFixtures.good.indices)
  func `is refused for every prefix, and for every byte behind it`(index: Int) throws {
    let (type, base64) = KeyFixtures.good[index]
    let blob = try #require(Base64.decoded(Array(base64.utf8)))
    let kind = try PublicKeyType(word: Array(type.utf8))
    for count in blob.indices {
      #expect(throws: RefusedKey.self, "\(count) bytes") { try kind.check(Array(blob.prefix(count))) }
    }
    #expect(throws: RefusedKey.self) { try kind.check(blob + [0]) }
    for other in PublicKeyType.allCases where other != kind {
      #expect(throws: RefusedKey.self) { try other.check(blob) }
    }
  }

  @Test(arguments: KeyFixtures.good.indices)
  func `is read without a crash whatever bits are turned`(index: Int) throws {
    let (type, base64) = KeyFixtures.good[index]
    let blob = try #require(Base64.decoded(Array(base64.utf8)))
    let kind = try PublicKeyType(word: Array(type.utf8))
    for position in blob.indices {
      for bit in 0..<8 {
        var damaged = blob
        damaged[position] ^= 1 << UInt8(bit)
        do throws(RefusedKey) {
          try kind.check(damaged)
          // Lengths and names come first: damage there never passes.
          #expect(position >= 8 + type.utf8.count)
        } catch {
          #expect(!error.reason.isEmpty)
        }
      }
    }
  }

  @Test(arguments: [
    "-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n-----END OPENSSH PRIVATE KEY-----\n",
    "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\n", "-----BEGIN ENCRYPTED PRIVATE KEY-----\nMII",
    "PuTTY-User-Key-File-3: ssh-ed25519\nEncryption: none\n", "SSH PRIVATE KEY FILE FORMAT 1.1\n\u{0}",
    "ssh-ed25519 AAAA\n-----BEGIN EC PRIVATE KEY-----\n",
  ])
  func `is told from a private one`(text: String) {
    #expect(refusal(text)?.contains("private key") == true)
    #expect(
      refusal(text + String(repeating: "A", count: PublicKey.sizeLimit))?.contains("private key") == true)
  }

  @Test(arguments: [
    ("", "no key"), ("\n", "no key"), ("\r\n", "no key"), ("\n\(key)", "more than one line"),
    ("\(key)\n\(key)", "more than one line"), ("\(key)\n\n", "more than one line"),
    ("\(key)\r\(key)", "more than one line"), ("# a comment\n\(key)", "more than one line"),
    ("\(key) a\ncommand=\"sh\" \(key)", "more than one line"),
    (" \(key)", "white space"), ("\t\(key)", "white space"),
    ("# \(key)", "instead of a key type"), ("command=\"sh\" \(key)", "instead of a key type"),
    ("restrict,pty \(key)", "instead of a key type"), ("cert-authority \(key)", "instead of a key type"),
    ("\u{feff}\(key)", "instead of a key type"),
    ("SSH-ED25519 \(KeyFixtures.ed25519)", "instead of a key type"),
    ("ssh-ed448 AAAA", "instead of a key type"), ("ssh-ed25519\u{0} AAAA", "instead of a key type"),
    ("1024 65537 1234567 alice", "instead of a key type"),
    ("ssh-dss \(KeyFixtures.dsa)", "DSA"), ("ssh-ed25519-cert-v01@openssh.com AAAA", "certificate"),
    ("ssh-ed25519", "nothing follows"), ("ssh-ed25519 ", "nothing follows"),
    ("---- BEGIN SSH2 PUBLIC KEY ----\nAAAA", "ssh-keygen -i"),
    ("-----BEGIN PUBLIC KEY-----\nMII", "ssh-keygen -i"),
    ("ssh-ed25519 \(KeyFixtures.ed25519)=", "not base64"), ("ssh-ed25519 *", "not base64"),
    ("ssh-ed25519 AAAA=AAA", "not base64"), ("ssh-ed25519 ====", "not base64"),
    ("ssh-ed25519 AAAA\u{0}", "not base64"),
    ("ssh-ed25519 \(KeyFixtures.ed25519.dropLast())", "not base64"),
    ("ssh-ed25519 \(KeyFixtures.ed25519.dropLast(4))", "not a whole"),
    ("ssh-ed25519 \(KeyFixtures.ed25519)AAAA", "not a whole"),
    ("ssh-ed25519 \(KeyFixtures.ecdsa256)", "does not begin with the type"),
    ("ecdsa-sha2-nistp384 \(KeyFixtures.ecdsa256)", "does not begin with the type"),
    ("ssh-rsa \(KeyFixtures.ed25519)", "does not begin with the type"),
    ("ssh-rsa \(KeyFixtures.rsa1024)", "an RSA key of 1024 bits"),
    ("\(key) alice\u{1b}[2J", "not printable"), ("\(key) a\u{0}", "not printable"),
    ("\(key) \u{202e}x", "not printable"),
    ("\(key) a\u{85}b", "not printable"), ("\(key) a\u{2028}b", "not printable"),
    ("\(key) a\u{7f}", "not printable"),
  ])
  func `has to be one line with a whole key, and nothing else`(text: String, why: String) throws {
    let reason = try #require(refusal(text))
    #expect(reason.contains(why), "\(reason)")
    #expect(isPrintable(Array(reason.utf8)))
  }

  @Test func `has a comment in UTF-8`() {
    #expect(refusal(Array("\(key) ".utf8) + [0xff]) != nil)
    #expect(refusal("\(key) Jürgen's Rechner; $(reboot) \"x\" \\") == nil)
  }

  @Test func `of RSA is odd, positive, minimal, and of 2048 to 16384 bits`() throws {
    let modulus = { (bits: Int) in
      var digits = [UInt8](repeating: 0xff, count: (bits + 7) / 8)
      digits[0] = UInt8(truncatingIfNeeded: (1 << ((bits - 1) % 8 + 1)) - 1)
      return digits[0] >= 0x80 ? [0] + digits : digits
    }
    let check = { (exponent: [UInt8], modulus: [UInt8]) throws(RefusedKey) in
      try PublicKeyType.rsa.check(string("ssh-rsa") + string(exponent) + string(modulus))
    }
    for bits in [2048, 2049, 4095, 16384] { try check([3], modulus(bits)) }
    for bits in [1, 1024, 2047, 16385] {
      #expect(throws: RefusedKey.self, "\(bits)") { try check([3], modulus(bits)) }
    }
    let good = modulus(2048)
    for exponent in [[], [0], [1], [4], [0, 3], [0x81], [0, 0, 0x81]] as [[UInt8]] {
      #expect(throws: RefusedKey.self, "\(exponent)") { try check(exponent, good) }
    }
    let negative = Array(good.dropFirst())
    let padded = [0] + good
    let even = Array(good.dropLast()) + [0xfe]
    for modulus in [[], [0], negative, padded, even] as [[UInt8]] {
      #expect(throws: RefusedKey.self) { try check([1, 0, 1], modulus) }
    }
    #expect(throws: RefusedKey.self) { try check(modulus(2056), good) }
  }

  @Test func `of a security key names its application`() {
    let key = string([UInt8](repeating: 7, count: 32))
    let type = PublicKeyType.securityKeyEd25519
    #expect(throws: Never.self) { try type.check(string(type.rawValue) + key + string("ssh:borg")) }
    for application in ["", "a\u{0}b"] {
      #expect(throws: RefusedKey.self) { try type.check(string(type.rawValue) + key + string(application)) }
    }
  }

  @Test func `of ECDSA is an uncompressed point on the curve of its type`() {
    let point = { (first: UInt8, count: Int) in string([first] + [UInt8](repeating: 1, count: count)) }
    let type = PublicKeyType.ecdsa256
    #expect(throws: Never.self) { try type.check(string(type.rawValue) + string("nistp256") + point(4, 64)) }
    for rest in [point(2, 64), point(4, 63), point(4, 65), point(0, 0), string("")] {
      #expect(throws: RefusedKey.self) { try type.check(string(type.rawValue) + string("nistp256") + rest) }
    }
    #expect(throws: RefusedKey.self) {
      try type.check(string(type.rawValue) + string("nistp384") + point(4, 64))
    }
  }

  @Test func `is read up to 16 KiB`() {
    let comment = String(repeating: "x", count: PublicKey.sizeLimit - key.utf8.count - 1)
    #expect(refusal("\(key) \(comment)") == nil)
    #expect(refusal("\(key) \(comment)x") == "longer than 16384 bytes")
  }

  @Test(arguments: 0..<8 as Range<UInt64>)
  func `is told from random text without a crash`(seed: UInt64) {
    var random = SeededGenerator(seed: seed)
    let parts = [
      "ssh-ed25519", "ssh-rsa", " ", "\n", "=", "AAAA", KeyFixtures.rsa2048, "\u{0}", "command=", "\"",
    ]
    for _ in 0..<500 {
      let text = (0..<Int.random(in: 0...6, using: &random)).map { _ in
        parts.randomElement(using: &random) ?? ""
      }
      guard let reason = refusal(text.joined()) else { continue }
      #expect(isPrintable(Array(reason.utf8)), "seed \(seed): \(text)")
    }
  }
}

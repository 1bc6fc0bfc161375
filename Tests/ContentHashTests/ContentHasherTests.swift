import TestKit
import Testing

@testable import ContentHash

struct ContentHasherTests {
  /// Length of the pattern, its SHA-256, its BLAKE3.
  static let recorded: [[String]] = Recorded.digests.split(separator: "\n").map { line in
    line.split(separator: " ").map(String.init)
  }

  static let pattern: [UInt8] = (0..<1_048_577).map { UInt8($0 % 251) }

  @Test func `the recording has every length that matters`() {
    #expect(Self.recorded.count == 60)
    #expect(Self.recorded.allSatisfy { $0.count == 3 })
  }

  @Test(arguments: recorded)
  func `a text hashes to what borg's own packages make of it`(row: [String]) throws {
    let length = try #require(Int(row[0]))
    #expect(digest(.sha256, length) == row[1])
    #expect(digest(.blake3, length) == row[2])
    #expect(digest(.blake3, length, portable: true) == row[2], "without the CPU's wider vectors")
  }

  @Test(arguments: recorded)
  func `pieces hash to the same as the whole, wherever they are cut`(row: [String]) throws {
    let length = try #require(Int(row[0]))
    var random = SeededGenerator(seed: UInt64(length))
    for longest in [70, 1500, 5000, 70000, 300_000] {
      let cuts = cuts(of: length, pieces: 1...longest, using: &random)
      for algorithm in HashAlgorithm.allCases {
        for portable in [false, true] {
          var hasher = ContentHasher(algorithm, portable: portable)
          for cut in cuts { hasher.update(Self.pattern, cut) }
          let result = hasher.finalize().hex
          #expect(result == row[algorithm == .sha256 ? 1 : 2], "\(algorithm) cut at \(cuts.prefix(100))")
        }
      }
    }
  }

  @Test(arguments: HashAlgorithm.allCases, [64, 1024, 2048, 65536, 131072])
  func `pieces that end where the tree does hash to the same as the whole`(
    algorithm: HashAlgorithm, size: Int
  ) {
    for length in [65536, 98304, 131072, 196608, 1_048_576] {
      var hasher = ContentHasher(algorithm)
      for start in stride(from: 0, to: length, by: size) {
        hasher.update(Self.pattern, start..<min(start + size, length))
      }
      let result = hasher.finalize().hex
      #expect(result == digest(algorithm, length), "\(length) bytes")
    }
  }

  @Test(arguments: HashAlgorithm.allCases)
  func `a digest may be taken at any time and more bytes be added`(algorithm: HashAlgorithm) {
    var hasher = ContentHasher(algorithm)
    for length in stride(from: 0, to: 150_000, by: 997) {
      let soFar = hasher.finalize().hex
      #expect(soFar == digest(algorithm, length), "after \(length) bytes")
      hasher.update(Self.pattern, length..<(length + 997))
    }
  }

  @Test(arguments: HashAlgorithm.allCases)
  func `empty pieces change nothing`(algorithm: HashAlgorithm) {
    var hasher = ContentHasher(algorithm)
    hasher.update([])
    hasher.update(Self.pattern, 0..<1024)
    hasher.update(Self.pattern, 1024..<1024)
    let one = hasher.finalize()
    hasher.update([])
    let two = hasher.finalize()
    #expect(one == two)
    #expect(one.hex == digest(algorithm, 1024))
  }

  @Test(arguments: HashAlgorithm.allCases)
  func `two hashers do not share anything`(algorithm: HashAlgorithm) {
    var first = ContentHasher(algorithm)
    var second = ContentHasher(algorithm)
    for start in stride(from: 0, to: 10_000, by: 100) {
      first.update(Self.pattern, start..<(start + 100))
      second.update(Self.pattern, (start * 2)..<(start * 2 + 200))
    }
    let results = [first.finalize().hex, second.finalize().hex]
    #expect(results == [digest(algorithm, 10_000), digest(algorithm, 20_000)])
  }

  @Test func `a flipped bit anywhere gives another digest`() {
    var bytes = Array(Self.pattern.prefix(9000))
    for algorithm in HashAlgorithm.allCases {
      let original = whole(algorithm, bytes)
      for index in stride(from: 0, to: bytes.count, by: 61) {
        bytes[index] ^= 0x80
        let changed = whole(algorithm, bytes)
        bytes[index] ^= 0x80
        #expect(changed != original, "\(algorithm), byte \(index)")
      }
    }
  }

  @Test func `the hasher knows its algorithm`() {
    let hasher = ContentHasher(.blake3)
    let algorithm = hasher.algorithm
    #expect(algorithm == .blake3)
  }

  // MARK: -

  /// Hex digits of the digest of the pattern's first bytes.
  private func digest(_ algorithm: HashAlgorithm, _ length: Int, portable: Bool = false) -> String {
    var hasher = ContentHasher(algorithm, portable: portable)
    hasher.update(Self.pattern, 0..<length)
    return hasher.finalize().hex
  }

  private func whole(_ algorithm: HashAlgorithm, _ bytes: [UInt8]) -> ContentDigest {
    ContentHasher.digest(of: bytes.span, by: algorithm)
  }

  private func cuts(
    of length: Int, pieces: ClosedRange<Int>, using random: inout SeededGenerator
  ) -> [Range<Int>] {
    var ranges: [Range<Int>] = []
    var start = 0
    while start < length {
      let end = min(start + Int.random(in: pieces, using: &random), length)
      ranges.append(start..<end)
      start = end
    }
    return ranges
  }
}

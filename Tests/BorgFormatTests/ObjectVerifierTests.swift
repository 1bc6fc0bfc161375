import TestKit
import BorgFormat
import Testing

struct ObjectVerifierTests {
  static let recorded = Recorded.rows(Recorded.findings, columns: 2)
  static let letters: [Character: ObjectFinding] = [
    "T": .tooSmall, "M": .metadataSizeIncorrect, "m": .metadataChecksumMismatch, "D": .dataSizeIncorrect,
    "d": .dataChecksumMismatch,
  ]

  /// Metadata of ten `m` and data of twenty `d`.
  static func sample() throws -> [UInt8] { try [UInt8](recorded: recorded[0][0]) }

  @Test func `borg check finds the same in every recorded object`() throws {
    for row in Self.recorded {
      let object = try [UInt8](recorded: row[0])
      let expected = try row[1].map { try #require(Self.letters[$0]) }
      #expect(ObjectVerifier.findings(in: object) == expected, "\(row)")
    }
  }

  @Test(arguments: randomSeeds)
  func `pieces give the same findings as the whole`(seed: UInt64) throws {
    for row in Self.recorded {
      let object = try [UInt8](recorded: row[0])
      var verifier = ObjectVerifier()
      for piece in object.pieces(seed: seed) { verifier.update(piece) }
      #expect(verifier.findings() == ObjectVerifier.findings(in: object), "\(row)")
    }
  }

  @Test func `findings may be asked for at any time, and reading may stop when complete`() throws {
    let sample = try Self.sample()
    var verifier = ObjectVerifier()
    for count in sample.indices {
      #expect(!verifier.isComplete)
      #expect((verifier.header != nil) == (count >= ObjectHeader.size))
      #expect(verifier.findings() == ObjectVerifier.findings(in: Array(sample.prefix(count))))
      verifier.update(sample.span.extracting(count..<(count + 1)))
    }
    #expect(verifier.isComplete)
    #expect(verifier.findings().isEmpty)
    verifier.update([1, 2, 3])
    #expect(verifier.findings().isEmpty)
  }

  @Test(arguments: randomSeeds)
  func `random bytes have a finding, whatever they are`(seed: UInt64) {
    var random = SeededGenerator(seed: seed)
    for count in 0..<100 {
      let bytes = random.bytes(count)
      #expect(!ObjectVerifier.findings(in: bytes).isEmpty)
    }
  }

  @Test func `the findings have borg's words, in its order`() {
    #expect(
      ObjectFinding.allCases.map(\.text) == [
        "too small.", "metadata size incorrect.", "metadata does not match checksum.", "data size incorrect.",
        "data does not match checksum.",
      ])
  }

  @Test func `a header has sizes in little-endian and checksums in big-endian order`() throws {
    let header = try ObjectHeader(parsing: try Self.sample())
    #expect(header.metaSize == 10)
    #expect(header.dataSize == 20)
    #expect(header.metaHash == 0x0E45_1C56_E785_70CE)
    #expect(header.dataHash == 0x3ABC_DE77_CEDC_8AEE)
    #expect(header.objectSize == 54)
  }

  @Test func `sizes of 4 GiB add up`() throws {
    let header = try ObjectHeader(parsing: [UInt8](repeating: 0xFF, count: 24))
    #expect(header.objectSize == 24 + 2 * 0xFFFF_FFFF)
  }

  @Test(arguments: 0..<24)
  func `bytes that end inside a header are truncated`(count: Int) throws {
    let bytes = Array(try Self.sample().prefix(count))
    #expect(throws: ObjectHeaderError.truncated(count: count)) { try ObjectHeader(parsing: bytes) }
  }

  @Test func `a flipped bit in a header is another header`() throws {
    let sample = Array(try Self.sample().prefix(24))
    let header = try ObjectHeader(parsing: sample)
    for bytes in sample.withEachBitFlipped { #expect(try ObjectHeader(parsing: bytes) != header) }
  }
}

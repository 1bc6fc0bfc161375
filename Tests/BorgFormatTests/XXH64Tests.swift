import TestKit
import BorgFormat
import Testing

struct XXH64Tests {
  static let recorded = Recorded.rows(Recorded.checksums, columns: 3)

  func pattern(_ count: Int) -> [UInt8] {
    (0..<count).map { UInt8(truncatingIfNeeded: $0 &* $0 &* 31 &+ $0 &* 7) }
  }

  @Test(arguments: recorded)
  func `a text hashes to what borg makes of it`(row: [String]) throws {
    let bytes = pattern(try #require(Int(row[0])))
    #expect(XXH64.hex(XXH64.hash(bytes)) == row[1])
    #expect(XXH64.hex(XXH64.hash(bytes, seed: 3)) == row[2])
  }

  @Test(arguments: randomSeeds)
  func `pieces hash to the same as the whole`(seed: UInt64) {
    var random = SeededGenerator(seed: seed)
    let bytes = random.bytes(Int.random(in: 0...300, using: &random))
    var hash = XXH64(seed: seed)
    for piece in bytes.pieces(seed: seed) { hash.update(piece) }
    #expect(hash.finish() == XXH64.hash(bytes, seed: seed))
  }

  @Test func `bytes one at a time hash to the same as the whole, at every length`() {
    let bytes = pattern(200)
    var hash = XXH64()
    for count in bytes.indices {
      #expect(hash.finish() == XXH64.hash(Array(bytes.prefix(count))))
      hash.update(bytes.span.extracting(count..<(count + 1)))
    }
  }

  @Test func `a copy goes on alone`() {
    var first = XXH64()
    first.update(pattern(40))
    var second = first
    second.update(pattern(3))
    #expect(first.finish() == XXH64.hash(pattern(40)))
    #expect(second.finish() == XXH64.hash(pattern(40) + pattern(3)))
  }

  @Test func `hex has 16 digits, also where the first are zero`() {
    #expect(XXH64.hex(0x0123) == "0000000000000123")
    #expect(XXH64.hex(.max) == "ffffffffffffffff")
  }
}

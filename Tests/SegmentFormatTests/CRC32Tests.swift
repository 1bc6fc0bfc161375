import BorgFormat
import Testing

struct CRC32Tests {
  private func pattern(_ count: Int) -> [UInt8] {
    (0..<count).map { UInt8(truncatingIfNeeded: $0 &* $0 &* 31 &+ $0 &* 7) }
  }

  @Test(arguments: Recorded.rows(Recorded.checksums))
  func `a text has the checksum that zlib gives it, from any beginning`(row: [String]) throws {
    let bytes = pattern(try #require(Int(row[0])))
    #expect(CRC32.checksum(bytes, bytes.indices) == UInt32(row[1]))
    #expect(CRC32.checksum(bytes, bytes.indices, continuing: 0x1234_5678) == UInt32(row[2]))
  }

  @Test func `pieces have the checksum of the whole, wherever it is cut`() {
    let bytes = pattern(100)
    for cut in 0...100 {
      let first = CRC32.checksum(bytes, 0..<cut)
      #expect(CRC32.checksum(bytes, cut..<100, continuing: first) == CRC32.checksum(bytes, 0..<100))
    }
  }
}

import BorgFormat
import Testing

struct CRC32Tests {
  @Test func `nine digits have the check value of the polynomial`() {
    #expect(CRC32.checksum(Array("123456789".utf8).span) == 0xCBF4_3926)
  }
}

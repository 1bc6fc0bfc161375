import BorgFormat
import Testing

struct HexTests {
  @Test func `every byte has two lower-case digits and comes back from them`() {
    let bytes = Array(UInt8.min...UInt8.max)
    let text = Hex.string(bytes)
    #expect(text.hasPrefix("000102030405060708090a0b0c0d0e0f10"))
    #expect(text.hasSuffix("fdfeff"))
    #expect(Hex.decode(text) == bytes)
    #expect(Hex.encode(bytes.span) == Array(text.utf8))
  }

  @Test func `capitals are taken only on request`() {
    #expect(Hex.decode("aF") == nil)
    #expect(Hex.decode("aF", letters: .anyCase) == [0xAF])
    #expect(Hex.decode("aF", letters: .lowerCase) == nil)
  }

  @Test(arguments: ["0", "000", "0g", "g0", " 0", "0x", "-1", "+1", "0:", "0/", "`0", "@0", "é", "0\u{0}"])
  func `what is not pairs of digits is refused`(text: String) {
    #expect(Hex.decode(text, letters: .anyCase) == nil)
  }

  @Test func `exactly 22 bytes are digits of either case`() {
    let digits = (UInt8.min...UInt8.max).filter { Hex.value(of: $0, letters: .anyCase) != nil }
    #expect(digits == Array("0123456789ABCDEFabcdef".utf8))
    #expect(
      digits.map { Hex.value(of: $0, letters: .anyCase) } == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9] + (10...15)
        + (10...15))
  }

  @Test func `no digits are no bytes`() {
    #expect(Hex.decode("") == [])
    #expect(Hex.string([]).isEmpty)
  }

  @Test(arguments: [0, 1, 0x0123_4567_89AB_CDEF, UInt64.max])
  func `a word has 16 digits and comes back from any offset`(word: UInt64) {
    var text = Array("xyz".utf8)
    Hex.append(word, to: &text)
    #expect(text.count == 19)
    #expect(Hex.word(in: text, at: 3) == word)
  }

  @Test(arguments: [-1, 1, 16, Int.max, Int.min])
  func `a word that does not lie within the text is nil`(offset: Int) {
    let text = Array("0123456789abcdef".utf8)
    #expect(Hex.word(in: text, at: offset) == nil)
    #expect(Hex.word(in: Array(text.prefix(15))) == nil)
  }
}

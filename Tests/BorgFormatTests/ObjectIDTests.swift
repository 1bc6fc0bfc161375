import TestKit
import BorgFormat
import Testing

struct ObjectIDTests {
  static let sample = ObjectID(
    0x0001_0203_0405_0607, 0x0809_0A0B_0C0D_0E0F, 0x1011_1213_1415_1617, 0x1819_1A1B_1C1D_1EFF)
  static let hex = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1eff"

  @Test func `bytes and hex go in and come out in the same order`() throws {
    let bytes = Array(UInt8(0)...30) + [0xFF]
    #expect(Self.sample.bytes == bytes)
    #expect(Self.sample.hex == Self.hex)
    #expect(ObjectID(bytes) == Self.sample)
    #expect(ObjectID(hex: Self.hex) == Self.sample)
    var text = Array("data/".utf8)
    Self.sample.appendHex(to: &text)
    #expect(String(decoding: text, as: UTF8.self) == "data/" + Self.hex)
  }

  @Test(arguments: [0, 1, 31, 33, 64])
  func `only 32 bytes are an id`(count: Int) {
    #expect(ObjectID([UInt8](repeating: 7, count: count)) == nil)
  }

  @Test func `only 64 digits are an id`() {
    for prefix in Array(Self.hex.utf8).prefixes { #expect(ObjectID(hex: prefix) == nil) }
    #expect(ObjectID(hex: Self.hex + "0") == nil)
    #expect(ObjectID(hex: Self.hex.uppercased()) == nil)
    #expect(ObjectID(hex: String(Self.hex.dropLast()) + "g") == nil)
  }

  @Test func `a flipped bit in hex is another id or none`() {
    for text in Array(Self.hex.utf8).withEachBitFlipped {
      if let id = ObjectID(hex: text) { #expect(id != Self.sample && Array(id.hex.utf8) == text) }
    }
  }

  @Test func `every byte counts for equality`() throws {
    for bytes in Self.sample.bytes.withEachBitFlipped {
      #expect(try #require(ObjectID(bytes)) != Self.sample)
    }
  }

  @Test(arguments: randomSeeds)
  func `the order is that of the bytes and of the hex names`(seed: UInt64) throws {
    var random = SeededGenerator(seed: seed)
    // Few different bytes, so that ids often agree in their first words.
    let ids = try (0..<40).map { _ in
      try #require(
        ObjectID((0..<32).map { UInt8($0 % 8 == 7 ? Int.random(in: 0...1, using: &random) : 0x80) }))
    }
    let sorted = ids.sorted()
    #expect(sorted.map(\.hex) == ids.map(\.hex).sorted())
    #expect(zip(sorted, sorted.dropFirst()).allSatisfy { !$1.bytes.lexicographicallyPrecedes($0.bytes) })
  }
}

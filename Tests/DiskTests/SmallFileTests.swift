import Disk
import SystemPackage
import Testing

@Suite struct `A small file` {
  @Test(arguments: [0, 1, 9, 10, 11, 100_000])
  func `is read to its end, or to the limit`(size: Int) throws {
    let place = try TemporaryDirectory()
    let bytes = (0..<size).map { UInt8(truncatingIfNeeded: $0) }
    try place.directory.create("f").write(bytes, 0..<size, at: 0)
    let path = place.path + Array("/f".utf8)
    #expect(try readWhole(path, limit: 200_000) == bytes)
    #expect(try readWhole(path, limit: 10) == Array(bytes.prefix(10)))
    #expect(try readWhole(path, limit: 0) == [])
  }

  @Test func `that cannot be read is an error with its reason`() throws {
    let place = try TemporaryDirectory()
    #expect(throws: Errno.noSuchFileOrDirectory) {
      try readWhole(place.path + Array("/none".utf8), limit: 10)
    }
    #expect(throws: Errno.isDirectory) { try readWhole(place.path, limit: 10) }
    // Up to the NUL it is the path of a file that can be read.
    #expect(throws: Errno.invalidArgument) { try readWhole(Array("/proc/version\u{0}x".utf8), limit: 10) }
  }
}

@Suite struct `The running program` {
  @Test func `has an absolute path of a file that is there`() throws {
    let path = try #require(Host.executable())
    #expect(path.first == UInt8(ascii: "/"))
    #expect(try readWhole(path, limit: 4) == [0x7f] + Array("ELF".utf8))
  }
}

import Disk
import Glibc
import SystemPackage
import Testing

/// The tree of `Recorded.entries`, and names in it.
private final class Tree: Sendable {
  let root: TemporaryDirectory

  init() throws {
    root = try TemporaryDirectory()
    for row in Recorded.entries.split(separator: "\n") {
      let columns = row.split(separator: " ").map(String.init)
      let path = terminated(root.path + Array("/".utf8) + (try bytes(columns[1])))
      let result: Int32
      switch columns[0] {
      case "d": result = unsafe mkdir(path, 0o700)
      case "f": result = unsafe creat(path, 0o600).signum() >= 0 ? 0 : -1
      default:
        let target = terminated(placed(try bytes(columns[2])))
        result = unsafe symlink(target, path)
      }
      try #require(result == 0)
    }
  }

  // A directory whose name is no text is nothing that `Directory` lists, and so removes.
  deinit { try? RepositoryPath(resolving: root.path + Array("/".utf8) + [0xff, 0xfe]).remove() }

  /// The path with this tree in the place of the recorded one.
  func placed(_ path: [UInt8]) -> [UInt8] {
    let mark = Array("@ROOT@".utf8)
    return path.starts(with: mark) ? root.path + path.dropFirst(mark.count) : path
  }
}

private func bytes(_ hex: String) throws -> [UInt8] {
  let digits = try hex.map { try #require($0.hexDigitValue) }
  return stride(from: 0, to: digits.count, by: 2).map { UInt8(digits[$0] << 4 | digits[$0 + 1]) }
}

private func resolved(_ path: [UInt8]) throws(Errno) -> [UInt8] { try RepositoryPath(resolving: path).bytes }

private func path(_ text: String) throws -> RepositoryPath { try RepositoryPath(resolving: Array(text.utf8)) }

struct RepositoryPathTests {
  // MARK: Resolving

  @Test func `paths resolve as Python's realpath resolves them`() throws {
    let tree = try Tree()
    for row in Recorded.paths.split(separator: "\n") {
      let columns = row.split(separator: " ").map(String.init)
      let given = tree.placed(try bytes(columns[0]))
      let expected = tree.placed(try bytes(columns[1]))
      let found = try resolved(given)
      #expect(found == expected, "\(String(decoding: given, as: UTF8.self))")
    }
  }

  @Test func `a relative path begins at the working directory, and an empty one is that`() throws {
    var buffer = [CChar](repeating: 0, count: 4096)
    try #require(unsafe getcwd(&buffer, buffer.count) != nil)
    let here = buffer.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }
    let prefix = here == Array("/".utf8) ? [] : here
    #expect(try resolved([]) == here)
    #expect(try resolved(Array(".".utf8)) == here)
    #expect(try resolved(Array("./nowhere/./at-all/..".utf8)) == prefix + Array("/nowhere".utf8))
    // Nobody's home directory: the original expands nothing either.
    #expect(try resolved(Array("~/x".utf8)) == prefix + Array("/~/x".utf8))
  }

  // Python's realpath takes such a link for a directory; to open it fails either way.
  @Test func `links that lead nowhere but to each other are an error`() throws {
    let root = try TemporaryDirectory()
    let slash = Array("/".utf8)
    for (name, target) in [
      ("self", "self"), ("a", "b"), ("b", "a"), ("deeper", "deeper/x"), ("up", "../up/up"),
    ] {
      let result = unsafe symlink(target, terminated(root.path + slash + Array(name.utf8)))
      try #require(result == 0)
    }
    for name in ["self", "a", "b", "deeper", "a/x", "a/..", "self/x/y"] {
      #expect(throws: Errno.tooManySymbolicLinkLevels) { try resolved(root.path + slash + Array(name.utf8)) }
    }
  }

  @Test func `forty links are followed, one more is not`() throws {
    let root = try TemporaryDirectory()
    let slash = Array("/".utf8)
    for number in 1...41 {
      let name = terminated(root.path + slash + Array("\(number)".utf8))
      let result = unsafe symlink("\(number - 1)", name)
      try #require(result == 0)
    }
    #expect(try resolved(root.path + slash + Array("40".utf8)) == root.path + slash + Array("0".utf8))
    #expect(throws: Errno.tooManySymbolicLinkLevels) { try resolved(root.path + slash + Array("41".utf8)) }
  }

  @Test func `what no path can be is an error`() {
    #expect(throws: Errno.invalidArgument) { try resolved([0]) }
    #expect(throws: Errno.invalidArgument) { try resolved(Array("/tmp/\0/x".utf8)) }
    let long = [UInt8](repeating: 0x78, count: 256)
    #expect(throws: Errno.fileNameTooLong) { try resolved(Array("/tmp/".utf8) + long) }
  }

  @Test func `resolving what is resolved changes nothing`() throws {
    let tree = try Tree()
    for row in Recorded.paths.split(separator: "\n") {
      let given = tree.placed(try bytes(String(row.split(separator: " ")[0])))
      let once = try resolved(given)
      #expect(try resolved(once) == once)
    }
  }

  // MARK: Restrictions

  @Test(arguments: [
    ("/srv/borg", "/srv/borg", true), ("/srv/borg/a", "/srv/borg", true),
    ("/srv/borg/a/b", "/srv/borg/", true),
    ("/srv/borg2", "/srv/borg", false), ("/srv/borg2/a", "/srv/borg", false),
    ("/srv/bor", "/srv/borg", false),
    ("/srv", "/srv/borg", false), ("/", "/srv", false), ("/", "/", true), ("/srv", "/", true),
    ("/a/b", "//", true),
    ("/srv/borg/../borg2", "/srv/borg", false), ("/srv/borg/./x/..", "/srv/borg", true),
    ("/srv/borg-", "/srv/borg", false),
    ("/srv/Borg", "/srv/borg", false), ("/srv/borg/..x", "/srv/borg", true),
  ])
  func `a path is within another one by whole components`(inner: String, outer: String, isWithin: Bool) throws
  {
    #expect(try path(inner).isWithin(path(outer)) == isWithin)
  }

  @Test func `a link out of a directory is not within it, a link into it is`() throws {
    let tree = try Tree()
    let root = try RepositoryPath(resolving: tree.root.path)
    #expect(try !RepositoryPath(resolving: tree.root.path + Array("/outside".utf8)).isWithin(root))
    #expect(try !RepositoryPath(resolving: tree.root.path + Array("/far-up".utf8)).isWithin(root))
    #expect(try RepositoryPath(resolving: tree.root.path + Array("/to-b/c".utf8)).isWithin(root))
  }

  // MARK: Making and opening

  @Test func `creating makes missing parents and says whether the directory is new`() throws {
    let root = try TemporaryDirectory()
    let location = try RepositoryPath(resolving: root.path + Array("/x/y/\u{ff}".utf8) + [0xff])
    #expect(throws: Errno.noSuchFileOrDirectory) { _ = try location.open() }
    #expect(try location.create())
    #expect(try !location.create())
    #expect(try location.open().entries().isEmpty)
    try location.remove()
    #expect(throws: Errno.noSuchFileOrDirectory) { _ = try location.open() }
    #expect(try root.directory.directory("x").entries() == ["y"])
  }

  @Test func `creating below a file is an error`() throws {
    let root = try TemporaryDirectory()
    _ = try root.directory.create("file")
    #expect(throws: Errno.notDirectory) {
      _ = try RepositoryPath(resolving: root.path + Array("/file/x".utf8)).create()
    }
    #expect(throws: Errno.notDirectory) {
      _ = try RepositoryPath(resolving: root.path + Array("/file".utf8)).open()
    }
  }

  @Test func `only an empty directory is removed`() throws {
    let root = try TemporaryDirectory()
    let location = try RepositoryPath(resolving: root.path)
    _ = try root.directory.create("file")
    #expect(throws: Errno.directoryNotEmpty) { try location.remove() }
    #expect(try root.directory.entries() == ["file"])
  }
}

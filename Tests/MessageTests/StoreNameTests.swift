import BorgFormat
import Testing

struct StoreNameTests {
  private static let hex = String(repeating: "0a", count: 32)

  @Test(arguments: [
    ("archives/\(hex)", "archives/\(hex)"), ("config/manifest", "config/manifest"),
    ("cache/chunks.0123456789abcdef", "cache/chunks.0123456789abcdef"),
    ("data/\(hex)", "data/0a/0a/\(hex)"), ("config/a/b", "config/a/b"), ("config/.hidden", "config/.hidden"),
    ("config/a.b.c", "config/a.b.c"),
    ("keys/~!@#$%^&*()_+-={}|[]:\";'<>?,`", "keys/~!@#$%^&*()_+-={}|[]:\";'<>?,`"),
    ("archives/x.del", "archives/x.del"), ("archives/tmp", "archives/tmp"),
    ("archives/x.tmpx", "archives/x.tmpx"),
  ])
  func `a name is nested as borgstore nests it`(name: String, nested: String) throws {
    let parsed = try StoreName(parsing: name)
    #expect(parsed.nested(dataLevels: 2) == nested)
    #expect(parsed.text == name)
    #expect(!parsed.isDeleted)
  }

  @Test(arguments: [
    (0, "data/\(hex)"), (1, "data/0a/\(hex)"), (3, "data/0a/0a/0a/\(hex)"),
  ])
  func `data is spread over as many levels as are set`(levels: Int, nested: String) throws {
    #expect(try StoreName(parsing: "data/\(Self.hex)").nested(dataLevels: levels) == nested)
    #expect(try StoreName(parsing: "archives/x").nested(dataLevels: levels) == "archives/x")
  }

  @Test func `a soft-deleted object carries a suffix on disk only`() throws {
    let name = try StoreName(parsing: "archives/x", isDeleted: true)
    #expect(name.nested(dataLevels: 2) == "archives/x.del")
    #expect(name.text == "archives/x")
    #expect(name.living.nested(dataLevels: 2) == "archives/x")
    #expect(try name.living == StoreName(parsing: "archives/x"))
    #expect(try StoreName(parsing: "archives/x").softDeleted() == name)
  }

  // The original looks for the namespace before it looks at the name.
  @Test(arguments: [
    "", "/", "x", "config", "configs/x", "conf/ig", "Config/x", "foo/../x", "../config/x", "/config/x",
    "foo/A B\\",
    " config/x", "locks", "data", "..", "./config/x", "c\u{301}onfig/x",
  ])
  func `a name in no namespace is named so before anything else is`(name: String) {
    #expect(throws: ServeError.namespaceUnknown("no matching namespace found for: \(name)")) {
      try StoreName(parsing: name)
    }
  }

  @Test(arguments: [
    "config/", "config//x", "config/x/", "config/a//b", "config/./x", "config/x/.", "config/.", "config/..",
    "config/../x", "config/x/..", "config/a..b", "config/a b", "config/a\\b", "config/A", "config/ü",
    "config/\u{0}",
    "config/a\nb", "config/a\u{7f}", "config/\t", "config/\u{1f}", "config/x.tmp", "config/x.hid",
    "config/.tmp",
    "archives/tmp12345678.tmp", "config/a.tmp/", "locks/x.tmp", "data/", "data/x", "data/0102",
    "data/\(hex).del",
    "data/\(hex)0", "data/\(hex.uppercased())", "data/zz\(hex.dropFirst(2))", "data/0a/0a/\(hex)",
    "data/\(hex)/",
  ])
  func `a name that no object may have is refused`(name: String) {
    #expect { try StoreName(parsing: name) } throws: { error in
      if case .argumentValue? = error as? ServeError { true } else { false }
    }
  }

  @Test(arguments: [(false, 100), (true, 96)])
  func `a name may be as long as is allowed, its suffix included`(isDeleted: Bool, longest: Int) throws {
    let name = "config/" + String(repeating: "x", count: longest - 7)
    #expect(try StoreName(parsing: name, isDeleted: isDeleted).text == name)
    #expect { try StoreName(parsing: name + "x", isDeleted: isDeleted) } throws: { error in
      if case .argumentValue(let text)? = error as? ServeError {
        text == "name is too long (max: 100): \(name)x"
      } else {
        false
      }
    }
  }

  @Test(arguments: ["", "config", "data/00", "nowhere", "a/b/c"])
  func `a directory may be any valid name, the root too`(name: String) {
    #expect(throws: Never.self) { try StoreName.validate(name) }
  }

  @Test(arguments: ["/", "config/", "/config", "..", ".", "a/../b", "a b", "A", "\u{0}", "é"])
  func `a directory obeys the same rules`(name: String) {
    #expect(throws: ServeError.self) { try StoreName.validate(name) }
  }

  @Test func `what a client sends is shortened and freed of control characters in messages`() {
    #expect("a\u{1b}[31mb\n\u{7f}\u{9b}ü".shortened == "a\u{fffd}[31mb\u{fffd}\u{fffd}\u{fffd}ü")
    #expect(String(repeating: "x", count: 120).shortened == String(repeating: "x", count: 120))
    #expect(String(repeating: "x", count: 121).shortened == String(repeating: "x", count: 120) + "…")
  }

  @Test(arguments: ["x.tmp", ".tmp", "tmpabcdefgh.tmp", "borg-serve.tmp", "quota.hid"])
  func `temporary and hidden entries are nobody's objects`(entry: String) {
    #expect(StoreName.isHidden(entry))
  }

  @Test(arguments: ["x", "x.del", "tmp", "x.tmp.y", "hid"])
  func `other entries are objects`(entry: String) {
    #expect(!StoreName.isHidden(entry))
  }
}

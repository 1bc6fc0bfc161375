import ServeCommand
import Testing

@Suite struct `The backend` {
  private func path(_ url: String) throws -> String {
    let backend = try Backend(parsing: Array(url.utf8)) { user in
      switch user.map({ String(decoding: $0, as: UTF8.self) }) {
      case nil: Array("/home/me/".utf8)
      case "alice": Array("/home/alice".utf8)
      case "root": Array("/".utf8)
      default: nil
      }
    }
    return String(decoding: backend.path, as: UTF8.self)
  }

  @Test(arguments: [
    ("FILE:/srv/repo", "/srv/repo"), ("FILE:rel/repo", "rel/repo"), ("FILE:", ""), ("FILE:~", "/home/me"),
    ("FILE:~/r", "/home/me/r"), ("FILE:~alice/r", "/home/alice/r"), ("FILE:~nobody/r", "~nobody/r"),
    ("FILE:~root", "/"), ("FILE:/a%20b", "/a%20b"), ("FILE:/~/r", "/~/r"), ("FILE:///x", "///x"),
    ("file:///srv/a%20b", "/srv/a b"), ("file:///", "/"), ("file:///~/x", "/~/x"), ("file:///%7Ea", "/~a"),
  ])
  func `is a directory`(url: String, expected: String) throws {
    #expect(try path(url) == expected)
  }

  @Test(arguments: [
    "", "/srv/repo", "file:/srv", "file://host/srv", "File:/srv", "sftp://h/srv", "http://h/", "s3:x",
    "rclone:x",
    "file:///%", "file:///%4", "file:///%zz", "file:///%00", "FILE:/a\0b",
  ])
  func `R16 of another kind is refused with a reason`(url: String) {
    let refused = #expect(throws: Backend.Refused.self) { try path(url) }
    #expect(refused?.reason.contains("--backend") == true)
    #expect(refused?.reason.contains("\0") == false)
  }
}

import Glibc
import Testing

@testable import NetServer

@Suite struct `Credentials of users` {
  @Test(arguments: [("$2y$", UInt(4)), ("$2b$", 4), ("$y$", 1), ("$6$", 1000), ("$5$", 1000), ("$7$", 6)])
  func `are checked by the hashes that ordinary tools make`(prefix: String, cost: UInt) throws {
    let hash = Bed.hash("pässwort", prefix: prefix, cost: cost)
    let file = try PasswordFile(parsing: "# users\n\nalice:\(hash)\nbob:\(hash):a comment\r\n")
    let password = try #require(file.passwords["alice"])
    #expect(file.passwords["bob"] == password)
    #expect(password.admits(Array("pässwort".utf8)))
    #expect(
      !password.admits(Array("passwort".utf8)) && !password.admits([])
        && !password.admits(Array("pässwort\0".utf8)))
  }

  @Test(arguments: [
    ("alice", "line 1: is not of the form user:hash"), (":x", "line 1: is not of the form user:hash"),
    ("alice:secret", "line 1, alice: has no hash"), ("alice:$apr1$x$y", "line 1, alice: has no hash"),
    ("alice:{SHA}W6ph5Mm5Pz8GgiULbPgzG37mj9g=", "line 1, alice: has no hash"),
    ("\nalice:$2y$04$short", "line 2, alice: has no hash"),
    ("alice:", "line 1, alice: has no hash"),
  ])
  func `name the line that is wrong and never what stands there`(text: String, message: String) {
    do {
      _ = try PasswordFile(parsing: text)
      Issue.record("it was taken")
    } catch {
      #expect(error.description.hasPrefix(message))
      #expect(!error.description.contains("secret"))
    }
  }

  @Test func `are read from the header as browsers and borgstore send them`() {
    #expect(BasicCredentials("Basic YWxpY2U6YTpi")?.password == Array("a:b".utf8))
    #expect(BasicCredentials("bAsIc YWxpY2U6YTpi")?.user == "alice")
    for bad in [
      "", "Basic", "Bearer YWxpY2U6YTpi", "Basic YWxpY2U", "Basic %%%", "Basic OmI=", "Basic /wA6YQ==",
      "Basic YQ==YQ==",
    ] {
      #expect(BasicCredentials(bad) == nil, "\(bad)")
    }
  }

  @Test func `cost one hash, not one for each request`() throws {
    let credentials = Credentials()
    let given = try #require(BasicCredentials("Basic \(Client.base64("alice:secret"))"))
    credentials.load(try PasswordFile(parsing: "alice:\(Bed.hash("secret"))"))
    #expect(credentials.look(given, from: [1]) == .unknown)
    #expect(credentials.check(given, from: [1]) == .right)
    #expect(credentials.look(given, from: [2]) == .right)
    let wrong = try #require(BasicCredentials("Basic \(Client.base64("alice:Secret"))"))
    #expect(credentials.look(wrong, from: [1]) == .unknown)
    #expect(credentials.check(wrong, from: [1]) == .wrong)
    // A changed line has to be proven anew.
    credentials.load(try PasswordFile(parsing: "alice:\(Bed.hash("secret"))"))
    #expect(credentials.look(given, from: [1]) == .unknown)
  }

  @Test func `of unknown users cost as much as wrong passwords`() throws {
    let credentials = Credentials()
    credentials.load(try PasswordFile(parsing: "alice:\(Bed.hash("secret", cost: 8))"))
    // Time of this thread alone: the machine has other things to do.
    func now() -> Double {
      var time = timespec()
      unsafe _ = clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time)
      return Double(time.tv_sec) + Double(time.tv_nsec) / 1e9
    }
    var times = ["alice:wrong": Double.infinity, "nobody:wrong": .infinity]
    for _ in 0..<5 {
      for login in times.keys {
        let given = try #require(BasicCredentials("Basic \(Client.base64(login))"))
        let began = now()
        #expect(credentials.check(given, from: [0]) == .wrong)
        times[login] = min(times[login] ?? 0, now() - began)
      }
    }
    let (known, unknown) = (times["alice:wrong"] ?? 0, times["nobody:wrong"] ?? 0)
    #expect(known > 0.002 && unknown < known * 1.5 && known < unknown * 1.5, "\(known), \(unknown)")
  }

  @Test func `are throttled by address and by user`() {
    var throttle = Throttle()
    throttle.limit(failures: 3, within: 60)
    let now = ContinuousClock.now
    for number in 0..<3 {
      #expect(throttle.wait(for: "alice", from: [1], at: now) == nil)
      throttle.note("user\(number)", from: [1], at: now)
    }
    #expect(throttle.wait(for: "alice", from: [1], at: now + .seconds(10)) == 50)
    #expect(throttle.wait(for: "alice", from: [2], at: now) == nil)
    #expect(throttle.wait(for: "alice", from: [1], at: now + .seconds(60)) == nil)
    // One user, guessed at from everywhere.
    for number in 0..<30 { throttle.note("bob", from: [UInt8(number + 10)], at: now) }
    #expect(throttle.wait(for: "bob", from: [99], at: now) == 60)
    throttle.forgive(from: [1])
    #expect(throttle.wait(for: "alice", from: [1], at: now) == nil)
  }
}

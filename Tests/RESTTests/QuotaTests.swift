import BorgFormat
import Disk
import DiskSimulation
import REST
import Storage
import Testing

/// Quotas, as clients of the HTTP dialect meet them.
@Suite struct `A quota` {
  @Test func `is told, and what would exceed it is answered with 507 and not stored`() throws {
    let place = try Place(limit: 100)
    let service = place.service()
    #expect(try service.call(.post, "/?cmd=quota").text == "{\"limit\": 100, \"usage\": 0}")
    #expect(try service.call(.post, "/a", String(repeating: "x", count: 60)).status == 200)
    #expect(try service.call(.post, "/b", String(repeating: "x", count: 41)).status == 507)
    #expect(try service.call(.get, "/b").status == 404)
    #expect(try service.call(.post, "/?cmd=quota").text == "{\"limit\": 100, \"usage\": 60}")
    #expect(try service.call(.delete, "/a").status == 200)
    #expect(try service.call(.post, "/b", String(repeating: "x", count: 41)).status == 200)
    try place.place.close()
  }

  @Test func `R14 a read costs it nothing, and a move leaves nothing counted that is gone`() throws {
    let place = try Place(limit: 1000)
    let service = place.service()
    #expect(try service.call(.post, "/a", String(repeating: "x", count: 400)).status == 200)
    #expect(try service.call(.post, "/b", String(repeating: "y", count: 100)).status == 200)
    let before = try place.root.file("borg-serve-usage.hid").status().modifiedNanoseconds
    #expect(try service.call(.get, "/a").status == 200)
    #expect(try place.root.file("borg-serve-usage.hid").status().modifiedNanoseconds == before)
    #expect(try service.call(.post, "/?cmd=move&current=b&new=a").status == 200)
    #expect(try service.call(.post, "/?cmd=quota").text == "{\"limit\": 1000, \"usage\": 100}")
    try place.place.close()
  }

  @Test func `is not in the way of a repository's beginning, in several processes, nor of its end`() throws {
    let place = try Place(.repositories, creating: false, limit: 1000)
    let key = "x"
    #expect(try place.service().call(.post, "/?cmd=create").status == 200)
    #expect(try place.service().call(.post, "/keys/\(sha256(key))", key).status == 200)
    try place.place.close()
    // Another process goes on with what is not a repository yet.
    #expect(try place.service().call(.post, "/config/config", "[repository]").status == 200)
    #expect(try place.service().call(.get, "/").text.contains("hid") == false)
    try place.place.close()
    #expect(try place.service().call(.delete, "/?cmd=destroy").status == 200)
    #expect(try place.directory.open().entries() == [])
  }

  @Test func `without one the answer is -1`() throws {
    #expect(try Place().service().call(.post, "/?cmd=quota").text == "{\"limit\": -1, \"usage\": -1}")
  }
}

import SegmentRepository
import Testing

@Suite struct LockIdentityTests {
  @Test func `an identity asks for the host's name only when it is wanted`() {
    _ = LockIdentity(hostID: { preconditionFailure() }, processID: 1, processIsAlive: { _ in true })
  }
}

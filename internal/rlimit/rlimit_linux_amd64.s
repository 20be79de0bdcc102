#include "textflag.h"

// func getrlimit(limit *[2]uint64) (errno uintptr)
TEXT ·getrlimit(SB), NOSPLIT, $0-16
	XORL DI, DI
	MOVL $7, SI    // RLIMIT_NOFILE
	XORL DX, DX
	MOVQ limit+0(FP), R10
	MOVL $302, AX  // prlimit64
	SYSCALL
	MOVQ AX, errno+8(FP)
	RET

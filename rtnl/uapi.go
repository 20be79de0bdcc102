package rtnl

import "github.com/mdlayher/netlink"

// The numbers of <linux/rtnetlink.h> and related headers. Package unix has them on
// Linux only, and the encoders build everywhere. A test compares the two.
const (
	rtmNewLink  netlink.HeaderType = 16
	rtmDelLink  netlink.HeaderType = 17
	rtmGetLink  netlink.HeaderType = 18
	rtmSetLink  netlink.HeaderType = 19
	rtmNewAddr  netlink.HeaderType = 20
	rtmDelAddr  netlink.HeaderType = 21
	rtmGetAddr  netlink.HeaderType = 22
	rtmNewRoute netlink.HeaderType = 24
	rtmDelRoute netlink.HeaderType = 25
	rtmGetRoute netlink.HeaderType = 26
	rtmNewNeigh netlink.HeaderType = 28
	rtmDelNeigh netlink.HeaderType = 29
	rtmGetNeigh netlink.HeaderType = 30
	rtmNewRule  netlink.HeaderType = 32
	rtmDelRule  netlink.HeaderType = 33
	rtmGetRule  netlink.HeaderType = 34

	// Of every four types the second deletes, and the third is the query.
	rtmKind    = 3
	rtmKindDel = 1
	rtmKindGet = 2

	nlmsgerrAttrMsg = 1

	afUnspec = 0
	afInet   = 2
	afInet6  = 10

	iffUp           = 0x1
	iffBroadcast    = 0x2
	iffLoopback     = 0x8
	iffPointToPoint = 0x10
	iffRunning      = 0x40
	iffMulticast    = 0x1000

	iflaAddress     = 1
	iflaIfName      = 3
	iflaMTU         = 4
	iflaLink        = 5
	iflaMaster      = 10
	iflaOperState   = 16
	iflaLinkInfo    = 18
	iflaStats64     = 23
	iflaAFSpec      = 26
	iflaNetNSFd     = 28
	iflaNumTxQueues = 31
	iflaNumRxQueues = 32

	iflaInetConf            = 1
	devconfPromoteSecondary = 20

	iflaInfoKind = 1
	iflaInfoData = 2

	vethInfoPeer = 1

	iflaVLANID = 1

	iflaVXLANID     = 1
	iflaVXLANGroup  = 2
	iflaVXLANLink   = 3
	iflaVXLANLocal  = 4
	iflaVXLANTTL    = 5
	iflaVXLANPort   = 15
	iflaVXLANGroup6 = 16
	iflaVXLANLocal6 = 17

	ifaAddress   = 1
	ifaLocal     = 2
	ifaLabel     = 3
	ifaBroadcast = 4
	ifaCacheInfo = 6
	ifaFlags     = 8

	rtaUnspec    = 0
	rtaDst       = 1
	rtaSrc       = 2
	rtaOIF       = 4
	rtaGateway   = 5
	rtaPriority  = 6
	rtaPrefSrc   = 7
	rtaMetrics   = 8
	rtaMultipath = 9
	rtaFlow      = 11
	rtaCacheInfo = 12
	rtaTable     = 15
	rtaVia       = 18
	rtaPref      = 20
	rtaEncapType = 21
	rtaEncap     = 22
	rtaExpires   = 23
	rtaNHID      = 30

	rtaxLock             = 1
	rtaxMTU              = 2
	rtaxWindow           = 3
	rtaxRTT              = 4
	rtaxRTTVar           = 5
	rtaxSSThresh         = 6
	rtaxCwnd             = 7
	rtaxAdvMSS           = 8
	rtaxReordering       = 9
	rtaxHopLimit         = 10
	rtaxInitCwnd         = 11
	rtaxFeatures         = 12
	rtaxRTOMin           = 13
	rtaxInitRwnd         = 14
	rtaxQuickAck         = 15
	rtaxCCAlgo           = 16
	rtaxFastOpenNoCookie = 17
	rtaxMax              = 17

	rtmFCloned = 0x200

	ndaDst    = 1
	ndaLLAddr = 2

	fraDst               = 1
	fraSrc               = 2
	fraIIFName           = 3
	fraGoto              = 4
	fraPriority          = 6
	fraFwMark            = 10
	fraFlow              = 11
	fraSuppressPrefixLen = 14
	fraTable             = 15
	fraFwMask            = 16
	fraOIFName           = 17
	fraPad               = 18
	fraProtocol          = 21
	fraIPProto           = 22
	fraSPortRange        = 23
	fraDPortRange        = 24
	fraSPortMask         = 28
	fraDPortMask         = 29

	fibRuleInvert = 2
	rtTableCompat = 252 // the short field of a number that does not fit

	// Bits of the multicast groups, as bind takes them.
	groupLink      = 1 << 0
	groupNeigh     = 1 << 2
	groupIPv4Addr  = 1 << 4
	groupIPv4Route = 1 << 6
	groupIPv6Addr  = 1 << 8
	groupIPv6Route = 1 << 10
)

// Sizes of the fixed parts in front of the attributes.
const (
	sizeofNlMsghdr  = 16
	sizeofIfInfo    = 16
	sizeofIfAddr    = 8
	sizeofRtMsg     = 12
	sizeofNdMsg     = 12
	sizeofNextHop   = 8
	sizeofRtAttr    = 4
	sizeofCacheInfo = 16
	sizeofRtCache   = 32

	// userHZ is how many of the kernel's clock ticks, as programs see them, are a second.
	userHZ = 100
)

// maxName is the length of the longest interface name, without its NUL.
const maxName = 15

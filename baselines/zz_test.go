package baselines
import ("testing";"math/rand/v2";"fmt")
func TestZZ(t *testing.T){
 s:=shapes()[2]
 for _, train := range []int{200,600,2000,6000} {
 by:=map[string]int{}; n:=0; below:=0; matured:=0
 for seed:=range uint64(5){ r:=rand.New(rand.NewPCG(seed,1)); m:=s.trained(r,train)
  for range 600 { ag,c:=s.session(r); for i:=range c { a:=scored(m,ag,&c[i]); n++; if a.P<=0.005 {below++; by[a.Features[0].Name+fmt.Sprintf(" %.0f",a.Features[0].Score)]++} } }
  matured=m.Agents["svc/1"].Sessions }
 t.Log(train, matured, float64(below)/float64(n)/0.005, by)
 }
}
